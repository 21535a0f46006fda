"""Push an export to the Hugging Face hub: a model repository and a data set repository of one name."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

from selftaught.records.errors import ConfigError, HubError, one_line

Kind = Literal["model", "dataset"]


class Hub:
    """The hub, as the user whose token this machine has."""

    def __init__(self, repo: str, *, public: bool) -> None:
        """Raises ConfigError for what is no name of a repository; HubError without a token or a network, for a token
        that is not known, and for a repository that is public although `public` is not given."""
        from huggingface_hub import HfApi, get_token
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id

        try:
            validate_repo_id(repo)
        except HFValidationError as error:
            raise ConfigError(f"--push-to-hub {repo!r}: {one_line(error)}; give OWNER/NAME") from error
        if get_token() is None:
            raise HubError(
                "--push-to-hub: this machine has no token of the Hugging Face hub; log in with `hf auth login`, or set "
                "HF_TOKEN"
            )
        self._api, self._public = HfApi(), public
        with _as_hub_error(f"ask {self._api.endpoint} whose token this is"):
            name = self._api.whoami()["name"]
        self.repo = repo if "/" in repo else f"{name}/{repo}"
        for kind in get_args(Kind):
            self._refuse_public(kind)

    def push(self, folder: Path, kind: Kind) -> str:
        """Make the repository, private unless asked otherwise, upload the folder, and return its address."""
        with _as_hub_error(f"push {folder} to {self.repo}", way_out=f"`hf upload {self.repo} {folder}`"):
            repo = self._api.create_repo(self.repo, repo_type=kind, private=not self._public, exist_ok=True)
            self._api.upload_folder(
                repo_id=self.repo, repo_type=kind, folder_path=folder, commit_message="Exported by selftaught"
            )
        return str(repo)

    def _refuse_public(self, kind: Kind) -> None:
        from huggingface_hub.errors import RepositoryNotFoundError

        if self._public:
            return
        with _as_hub_error(f"ask {self._api.endpoint} for the {kind} {self.repo}"):
            try:
                info = self._api.repo_info(self.repo, repo_type=kind)
            except RepositoryNotFoundError:
                return
        if not info.private:
            raise HubError(
                f"--push-to-hub: the {kind} {self.repo} is there and public; give --public if this may be read by all, "
                "or another name"
            )


@contextmanager
def _as_hub_error(what: str, *, way_out: str = "the command") -> Iterator[None]:
    """Turn what the hub's client raises into one line; what was exported stays."""
    import httpx2

    try:
        yield
    except (httpx2.HTTPError, OSError, ValueError) as error:
        reason = one_line(error).split(" (Request ID")[0]
        raise HubError(
            f"cannot {what}: {type(error).__name__}: {reason}; look at the token, the name and the network, then "
            f"repeat {way_out}"
        ) from error
