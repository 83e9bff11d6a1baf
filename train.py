"""Train a network, test its best checkpoint, return its validation score (a loss negated). Options: conf/train.yaml."""

import hydra
from omegaconf import DictConfig, OmegaConf

from famseg import collector
from famseg.resume import resume_point


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> float:
    """One run, from a composed configuration to a tested checkpoint."""
    from famseg import checkpoint, run  # torch and Lightning, which --help does not wait for

    collector.spare_imports()
    with run.recorded(config):
        data = hydra.utils.instantiate(config.data)
        OmegaConf.update(config, "model.num_classes", len(data.classes), force_add=True)
        task = hydra.utils.instantiate(config.task, classes=data.classes)
        task.metadata = run.describe(config.model)
        last = resume_point(config.output, config.resume, task.metadata["model"], data.splits)
        checkpoint.initialise(task.model, None if last else config.init_from)
        trainer = hydra.utils.instantiate(config.trainer, _convert_="all")
        trainer.fit(task, datamodule=data, ckpt_path=last, weights_only=True)
        best = trainer.checkpoint_callback
        trainer.test(task, datamodule=data, ckpt_path=best.best_model_path, weights_only=True, verbose=False)
        return float(best.score)


if __name__ == "__main__":
    collector.relax()
    main()
