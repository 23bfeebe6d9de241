"""What faces a notebook: widgets, figures, checks. The method itself stands one folder up."""
