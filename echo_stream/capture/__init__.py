"""Where sound comes from: sources that are polled, and what cuts their blocks into windows."""
