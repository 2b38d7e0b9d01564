"""The command `job`: one file that runs the command `run` on a cluster: a RayJob of KubeRay, a Ray Job, a Slurm script."""
