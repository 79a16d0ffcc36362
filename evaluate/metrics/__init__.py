"""Figures of scored pairs: ROC, folds, intervals, paired tests."""
