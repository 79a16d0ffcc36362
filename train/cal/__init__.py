"""Counterfactual Attention Learning with landmark guidance."""
