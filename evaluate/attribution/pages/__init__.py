"""Tables and pages of an attribution run."""
