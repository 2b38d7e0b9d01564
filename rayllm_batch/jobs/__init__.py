"""The commands `job`, a file that runs `run` on a cluster (KubeRay, Ray Jobs, Slurm), and `init`, a folder to begin
with.
"""
