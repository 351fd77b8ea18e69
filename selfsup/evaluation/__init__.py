"""How good labels and features are."""
