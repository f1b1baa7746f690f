"""DARTS: search by pruning a supernet, train what was found on CIFAR-10 and ImageNet, evaluate, fill a table."""
