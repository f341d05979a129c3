"""Lets Hydra find the YAML files of other packages and of --config-dir, after InstructRL's own."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class AddedFolders(SearchPathPlugin):
    """Appends the folders that `instructrl.cli.folders` knows to those that Hydra searches."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the folders."""
        from instructrl.cli.folders import added_folders

        for folder in added_folders():
            search_path.append(provider="instructrl", path=f"file://{folder}")
