"""Networks: plain PyTorch modules that know nothing of Lightning."""
