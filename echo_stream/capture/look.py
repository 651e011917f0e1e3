"""What inputs PortAudio sees at this moment, as JSON. A program of its own, run as a child process.

PortAudio's list is that of the moment when it was initialised, and initialising it again kills every open
stream; a sound server that hangs also hangs whoever looks. A child process is always fresh and can be killed.
"""

import json


def main() -> None:
    """Print {"inputs": [[name, channels, rate], ...]} or {"error": why PortAudio cannot be loaded}."""
    try:
        import sounddevice  # noqa: PLC0415 - its absence is an answer, not a crash
    except (ImportError, OSError) as error:
        print(json.dumps({"error": str(error)}))
        return
    apis = sounddevice.query_hostapis()
    inputs = [
        [device["name"], device["max_input_channels"], round(device["default_samplerate"])]
        for device in sounddevice.query_devices()
        if device["max_input_channels"] > 0 and apis[device["hostapi"]]["name"] == "ALSA"
    ]
    print(json.dumps({"inputs": inputs}))


if __name__ == "__main__":
    main()
