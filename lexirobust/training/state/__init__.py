"""What training keeps from step to step beside the weights, and saves with the model."""
