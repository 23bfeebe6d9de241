"""Each pipeline on one page, built from the public pieces: a page to copy into a project of your own."""
