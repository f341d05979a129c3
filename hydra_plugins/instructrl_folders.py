"""Lets Hydra find and check the YAML files of InstructRL, of other packages and of --config-dir, in this order."""

from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf


class CheckedFiles(ConfigSource):
    """Folders of YAML files, which are read by `instructrl.cli.option_files`: what is wrong has a file and a line."""

    @staticmethod
    def scheme() -> str:
        return "instructrl"

    def load_config(self, config_path: str) -> ConfigResult:
        from instructrl.cli.option_files import load_option

        file = load_option(Path(self.path), config_path)
        config = OmegaConf.create(file.yaml.values)
        return ConfigResult(self.provider, self.full_path(), config, header={"package": file.header})

    def available(self) -> bool:
        return self.is_group("")

    def is_group(self, config_path: str) -> bool:
        return (Path(self.path) / config_path).is_dir()

    def is_config(self, config_path: str) -> bool:
        path = Path(self.path) / f"{config_path.removesuffix('.yaml')}.yaml"
        return path.exists() or path.is_symlink()  # also what is no file: `load_config` says so

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        folder = Path(self.path) / config_path
        groups = [path.name for path in folder.iterdir() if path.is_dir()]
        configs = [path.stem for path in folder.glob("*.yaml")]
        wanted = {ObjectType.GROUP: groups, ObjectType.CONFIG: configs}
        return sorted({*(groups + configs if results_filter is None else wanted[results_filter])})


class AddedFolders(SearchPathPlugin):
    """Appends the folders that `instructrl.cli.folders` knows to those that Hydra searches."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the folders, and have InstructRL's own read in the same way."""
        from instructrl.cli.folders import added_folders
        from instructrl.package_files import CONFIG_DIR

        for query in search_path.get_path():
            if query.path in (str(CONFIG_DIR), f"file://{CONFIG_DIR}"):
                query.path = f"{CheckedFiles.scheme()}://{CONFIG_DIR}"
        for folder in added_folders():
            search_path.append(provider="instructrl", path=f"{CheckedFiles.scheme()}://{folder}")
