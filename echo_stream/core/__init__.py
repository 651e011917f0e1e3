"""The core is what every part of echo-stream uses: types, errors, levels, text and files."""
