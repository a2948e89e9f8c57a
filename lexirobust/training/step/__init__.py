"""One ranked step: the losses and gradients of all objectives, and the update made of them."""
