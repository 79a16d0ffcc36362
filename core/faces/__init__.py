"""From the bytes of a photograph to a crop."""

LANDMARKS = 478  # points of MediaPipe's Face Mesh: 468 of the face, then 5 of each iris
LUMA = (0.299, 0.587, 0.114)  # weights of R, G and B of ITU-R BT.601, as image libraries use them
