"""The solvers: they see passes over the rows and vectors of K numbers, and nothing else."""
