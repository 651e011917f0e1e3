"""A real S3 server (moto's) on 127.0.0.1, with what the environment must say to reach it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

BUCKET = "sound"
ENVIRONMENT = (
    "AWS_ENDPOINT_URL",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_DEFAULT_REGION",
    "AWS_EC2_METADATA_DISABLED",
)


@dataclass
class ObjectStore:
    """With a bucket."""

    server: Any

    def put(self, folder: Path, under: str) -> Path:
        """Uploads all files of a folder; their place, as a command gets it."""
        import s3fs

        s3fs.S3FileSystem().put(str(folder), f"{BUCKET}/{under}", recursive=True)
        return Path(f"s3://{BUCKET}/{under}")


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    """The server, reached by this process and those that it starts."""
    moto = pytest.importorskip("moto.server", reason="moto is not installed: pip install 'echo-stream[test]'")
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 'echo-stream[s3]'")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    urlopen(f"http://{host}:{port}/moto-api/reset", data=b"").close()  # of a server before in this process
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        said = f"http://{host}:{port}", "key", "secret", "us-east-1", "true"
        for name, value in zip(ENVIRONMENT, said, strict=True):
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir(BUCKET)
        try:
            yield ObjectStore(server)
        finally:
            server.stop()
            s3fs.S3FileSystem.clear_instance_cache()
