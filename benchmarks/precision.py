"""What a precision costs in detection: AUC of each machine in each runtime and precision, beside float32's.

    python -m benchmarks.precision DIR... [--weights FILE --size tiny] [--seed 1] [--only torch-bfloat16 ...]

DIR holds machines in the layout of DCASE task 2; `evaluate` fits and scores them, all recordings, and nothing
differs but how the net is computed. Without --weights they are random, drawn from the seed: no trained ones
come with this project. Ends with 1 where an AUC is further from plain float32's than what is promised. It is
no timing: it can run beside other work.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.encode import encoders_of
from echo_stream.cli.evaluate import evaluate
from echo_stream.encode.echo import SIZES, EchoWeights
from echo_stream.encode.encoder import Encoder

PROMISED = 0.002
"""An AUC is no further from float32's."""
EXACT = "plain-float32"


def aucs(folders: list[Path], encoder: Encoder, *, window_s: float, hop_s: float) -> dict[str, float]:
    """AUC of each machine below the folders."""
    found: dict[str, float] = {}
    for folder in folders:
        machines = evaluate(folder, encoder, window_s=window_s, hop_s=hop_s)["machines"]
        found |= {m["machine"]: m["auc"] for m in machines if m["auc"] is not None}
    return found


def main() -> None:
    """Print the table; exit 1 where the promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--size", choices=list(SIZES), default="tiny")
    parser.add_argument("--seed", type=int, default=1, help="of the random weights")
    parser.add_argument("--window-s", type=float, default=2.0)
    parser.add_argument("--hop-s", type=float, default=1.0)
    parser.add_argument("--only", nargs="*", default=[], metavar="RUNTIME-PRECISION")
    parser.add_argument("--json", action="store_true", help="one JSON object a runtime and precision")
    asked = parser.parse_args()
    model = (
        EchoWeights.from_checkpoint(asked.weights, asked.size)
        if asked.weights
        else EchoWeights.random(asked.size, asked.seed)
    )
    wanted = [EXACT, *asked.only] if asked.only else []
    found: dict[str, dict[str, float]] = {}
    worst = 0.0
    for name, encoder in encoders_of(model, wanted).items():
        found[name] = aucs(asked.folders, encoder, window_s=asked.window_s, hop_s=asked.hop_s)
        away = {machine: auc - found[EXACT][machine] for machine, auc in found[name].items()}
        worst = max(worst, *map(abs, away.values()))
        if asked.json:
            print(json.dumps({"runtime": name, "auc": found[name], "from_float32": away}), flush=True)
            continue
        if name == EXACT:
            print(" " * 20 + "".join(f"{machine[-12:]:>14}" for machine in found[name]) + "       largest")
        rows = [f"{auc:7.4f}{away[machine]:+7.4f}" for machine, auc in found[name].items()]
        print(f"{name:20}" + "".join(rows) + f"{max(map(abs, away.values())):14.4f}", flush=True)
    print(f"# largest difference {worst:.4f}, promised {PROMISED}")
    sys.exit(worst > PROMISED)


if __name__ == "__main__":
    main()
