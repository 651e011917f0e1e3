"""`python -m echo_stream` is the console script `echo-stream`."""

from echo_stream.cli import main

main()
