"""Entropic plans: from what the caller passed to a result, of whole matrices and minibatches."""
