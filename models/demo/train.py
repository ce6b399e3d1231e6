"""Trains the demo model from nothing: ``python -m models.demo.train``. Stopped at any time, it goes on
where it was.
"""

import argparse
import json
import math
import pathlib
import shutil
import signal
import time
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer
from tqdm import tqdm

from models.demo import architecture, batches, hints, packed, tokenizer
from models.demo.learner import Average, Optimizers, Team, best_dtype

if TYPE_CHECKING:
    from transformers import Qwen3VLForConditionalGeneration

HERE = pathlib.Path(__file__).parent
WEIGHTS = HERE / "weights"
RUN = HERE / "run"
SAVE_EVERY = 240.0  # seconds


class Run:
    """A training run: the model, its optimizers, its average, and the step that it is at."""

    def __init__(self, folder: pathlib.Path, steps: int, seed: int, size: int, threads: int) -> None:
        torch.manual_seed(seed)
        self.folder, self.steps, self.seed, self.size, self.threads = folder, steps, seed, size, threads
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "processor" / "tokenizer.json").exists():
            tokenizer.save_processor(folder / "processor")
        self.tokenizer_json = (folder / "processor" / "tokenizer.json").read_text(encoding="utf-8")
        vocabulary = Tokenizer.from_str(self.tokenizer_json).get_vocab()
        self.model: Qwen3VLForConditionalGeneration = architecture.build(len(vocabulary), vocabulary)
        self.model.train()
        packed.install(self.model)
        self.probe = hints.Probe(architecture.TEXT["hidden_size"])
        self.optimizers = Optimizers(self.model, self.probe, steps)
        self.average = Average(self.model)
        self.step = 0
        self.seconds = 0.0
        if (folder / "state.pt").exists():
            self.resume()

    def resume(self) -> None:
        """Go on from the last checkpoint."""
        state: dict[str, Any] = torch.load(self.folder / "state.pt", weights_only=True)
        self.model.load_state_dict(state["model"])
        self.probe.load_state_dict(state["probe"])
        self.optimizers.load_state_dict(state["optimizers"])
        for name, tensor in state["average"].items():
            self.average.weights[name].copy_(tensor)
        self.step, self.seconds = state["step"], state["seconds"]

    def save(self) -> None:
        """Write the checkpoint, and the averaged weights as a loadable model."""
        state = {
            "model": self.model.state_dict(),
            "probe": self.probe.state_dict(),
            "optimizers": self.optimizers.state_dict(),
            "average": self.average.weights,
            "step": self.step,
            "seconds": self.seconds,
        }
        torch.save(state, self.folder / "state.tmp")
        (self.folder / "state.tmp").replace(self.folder / "state.pt")
        export(self, self.folder / "export")

    def train(self) -> bool:
        """Take the steps that are left; false if it was interrupted (Ctrl-C or SIGTERM), which saves and
        stops.
        """
        stopped: list[int] = []
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda caught, _: stopped.append(caught))
        team = Team(self.model, self.probe, self.threads, best_dtype())
        source = batches.loader(self.tokenizer_json, self.seed, self.size, self.steps, self.step)
        bar = tqdm(total=self.steps, initial=self.step, unit="step", smoothing=0.05, mininterval=5.0)
        saved = started = time.monotonic()
        smooth = math.nan
        before = self.seconds
        with (self.folder / "log.jsonl").open("a", encoding="utf-8", buffering=1) as log:
            while self.step < self.steps and not stopped:
                value, hinted = team.gradients(next(source), self.optimizers.hint_weight(self.step))
                norm = self.optimizers.step(self.step, team)
                self.average.update(self.step)
                self.step += 1
                now = time.monotonic()
                self.seconds = before + now - started
                smooth = value if math.isnan(smooth) else 0.97 * smooth + 0.03 * value
                line = {
                    "step": self.step,
                    "loss": value,
                    "hints": hinted,
                    "norm": norm,
                    "seconds": self.seconds,
                }
                log.write(json.dumps(line) + "\n")
                bar.update()
                bar.set_postfix(loss=f"{smooth:.4f}")
                if now - saved > SAVE_EVERY:
                    self.save()
                    saved = now
        bar.close()
        self.save()
        return self.step >= self.steps


def export(run: Run, folder: pathlib.Path) -> None:
    """Write the averaged weights in 16 bits with all that ``from_pretrained`` needs."""
    from transformers import GenerationConfig, Qwen3VLConfig, Qwen3VLForConditionalGeneration

    config = Qwen3VLConfig.from_dict(run.model.config.to_dict())
    model = Qwen3VLForConditionalGeneration(config)
    model.load_state_dict(dict(run.average.weights), strict=False)
    model.tie_weights()
    model.half()
    ids = {"pad_token_id": config.pad_token_id, "eos_token_id": config.eos_token_id}
    model.generation_config = GenerationConfig(do_sample=False, max_new_tokens=160, **ids)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    shutil.copytree(run.folder / "processor", partial, dirs_exist_ok=True)
    for path in partial.iterdir():
        path.chmod(0o644)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def main() -> None:
    """Read the arguments, train, and put the finished model into the weights folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=8800, help="how many steps in all")
    parser.add_argument("--batch", type=int, default=32, help="dialogues in a step")
    parser.add_argument("--seed", type=int, default=1, help="of the weights and of all that is drawn")
    parser.add_argument("--threads", type=int, default=2, help="of the processor")
    parser.add_argument("--run", type=pathlib.Path, default=RUN, help="folder of the checkpoints")
    parser.add_argument("--weights", type=pathlib.Path, default=WEIGHTS, help="folder of the finished model")
    arguments = parser.parse_args()
    run = Run(arguments.run, arguments.steps, arguments.seed, arguments.batch, arguments.threads)
    if not run.train():
        print(f"stopped at step {run.step}; start again to go on")
        return
    shutil.rmtree(arguments.weights, ignore_errors=True)
    shutil.copytree(arguments.run / "export", arguments.weights)
    print(
        f"{architecture.parameters(run.model)} parameters, {run.step} steps, {run.seconds / 60:.0f} minutes"
    )


if __name__ == "__main__":
    main()
