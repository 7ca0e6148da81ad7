"""Where things are."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
OVERLAYS = CONFIGS / "overlays"
SMOKE = ("--config", OVERLAYS / "smoke.yaml")
