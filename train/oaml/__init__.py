"""AdaFace, QAConv and the occlusion head."""
