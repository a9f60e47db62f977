"""Cases become training rows: balance, splits, conversion, verification, contrastive pairs."""
