"""Backward passes with other derivatives: LRP and DeepLIFT."""
