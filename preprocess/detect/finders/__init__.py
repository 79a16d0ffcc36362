"""What finds faces and lays the 478 points on them: one interface, several engines."""
