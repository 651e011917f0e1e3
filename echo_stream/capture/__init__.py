"""Where sound comes from: sources deliver blocks, windows are cut from them by absolute sample index."""
