"""From scores to log-likelihood ratios, fitted on training identities."""
