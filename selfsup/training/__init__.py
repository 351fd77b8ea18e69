"""The loop around the method: steps, label passes, checkpoints, processes, what is said."""
