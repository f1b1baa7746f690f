"""AutoFormer: supernet, benchmark of subnets, search, fine-tuning, retraining."""
