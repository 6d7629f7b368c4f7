"""The compiled output, ``name.lutc/``: what its manifest says and how it is written and read. No TVM, no torch."""
