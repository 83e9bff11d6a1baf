"""Score a trained model: python eval.py run=FOLDER [data=NAME data.root=DIR data.fold=all]. Options: conf/eval.yaml."""

import hydra
from omegaconf import DictConfig

from famseg import collector


@hydra.main(version_base="1.3", config_path="conf", config_name="eval")
def main(config: DictConfig) -> None:
    """Load, score, write the tables and overlays."""
    from famseg import run  # torch and Lightning, which --help does not wait for
    from famseg.evaluation.evaluate import evaluate

    collector.spare_imports()
    with run.recorded(config) as folder:
        evaluate(config, folder)


if __name__ == "__main__":
    collector.relax()
    main()
