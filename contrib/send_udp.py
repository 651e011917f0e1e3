#!/usr/bin/env python3
"""Sends a 16-bit WAV file to echo-stream as a thin sensor would: docs/sources.md, "A sensor in the network".

    python3 contrib/send_udp.py pump.wav 192.168.0.2 5005          # --loss 0.01 loses one packet of a hundred

A sensor needs no more: a header of 24 bytes, samples, a counter. On an ESP32: esp_random() for the session,
i2s_read() for the samples, WiFiUDP.beginPacket(), write(), endPacket() for the rest.
"""

import argparse
import random
import socket
import struct
import time
import wave

FRAMES = 320  # 20 ms at 16 kHz; a packet stays below 1,472 bytes
S16LE = 1


def main() -> None:
    """Send the file in its own time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--loss", type=float, default=0.0)
    asked = parser.parse_args()
    out = socket.socket(socket.AF_INET6 if ":" in asked.host else socket.AF_INET, socket.SOCK_DGRAM)
    session, index, began_s = random.getrandbits(32), 0, time.monotonic()
    with wave.open(asked.file) as sound:
        rate, channels = sound.getframerate(), sound.getnchannels()
        per_packet = min(FRAMES, 1448 // (2 * channels))
        while samples := sound.readframes(per_packet):
            frames = len(samples) // (2 * channels)
            header = struct.pack("<4sBBHIIQ", b"ECS1", S16LE, channels, frames, rate, session, index)
            if random.random() >= asked.loss:  # noqa: S311
                out.sendto(header + samples, (asked.host, asked.port))
            index += frames
            time.sleep(max(0.0, began_s + index / rate - time.monotonic()))


if __name__ == "__main__":
    main()
