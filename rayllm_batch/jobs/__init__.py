"""The command `job`: a file that runs the command `run` on a cluster: of KubeRay, Ray Jobs or Slurm."""
