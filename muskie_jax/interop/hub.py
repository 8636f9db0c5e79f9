"""The Hugging Face hub: downloads of weights, and uploads of `save_pretrained` folders."""

import os
import pathlib
import re
from collections.abc import Collection

from muskie_jax.errors import UserError, first_line
from muskie_jax.files import user_path
from muskie_jax.interop.weights import INPUT_SUFFIXES

REPO = re.compile(r"[\w.-]+/[\w.-]+")
WEIGHTS = "model.safetensors"  # file name in a `save_pretrained` folder and in most repositories


def names_repository(source: str | os.PathLike, suffixes: Collection[str]) -> bool:
    """Returns whether a source that does not exist locally may be a repository on the hub.

    It cannot be one if it has the suffix of a weights file, or if its parent folder exists.

    Args:
      source: source, as the user wrote it.
      suffixes: suffixes of weights files.
    """
    path = user_path(source)
    return path.suffix not in suffixes and not path.parent.is_dir() and bool(REPO.fullmatch(str(source)))


def download(
    repo: str,
    revision: str | None = None,
    filename: str | None = None,
    suffixes: tuple[str, ...] = INPUT_SUFFIXES,
) -> pathlib.Path:
    """Downloads a repository's weights and returns the path of the file in the local cache.

    Args:
      repo: `user/name`.
      revision: a branch, tag or commit; None is the newest.
      filename: a file; None is `model.safetensors`, or else the only weights file in the repository.
      suffixes: suffixes of weights files.

    Raises:
      UserError: if the repository or the file does not exist, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        try:
            return pathlib.Path(hf_hub_download(repo, filename or WEIGHTS, revision=revision))
        except LocalEntryNotFoundError:  # offline; a subclass of EntryNotFoundError, so it comes first
            raise
        except EntryNotFoundError:
            if filename:
                raise
        files = HfApi().list_repo_files(repo, revision=revision)
        candidates = sorted(name for name in files if name.endswith(suffixes))
        if not candidates:
            raise UserError(f"{repo} on the hub has no {WEIGHTS} and no other weights file")
        if len(candidates) > 1:
            raise UserError(
                f"{repo} on the hub has no {WEIGHTS} but several weights files: choose one with "
                f"filename= ({', '.join(candidates)})"
            )
        return pathlib.Path(hf_hub_download(repo, candidates[0], revision=revision))
    except UserError:
        raise
    except Exception as error:  # the library and its network layer raise many kinds
        raise _download_error(repo, filename, revision, error) from error


def upload(folder: pathlib.Path, repo: str, private: bool) -> str:
    """Uploads a `save_pretrained` folder as one commit; creates the repository if it does not exist.

    Returns:
      The URL of the commit.

    Raises:
      UserError: if the hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        api.create_repo(repo, private=private, exist_ok=True)
        commit = api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Muskie weights")
    except Exception as error:
        raise UserError(
            f"cannot upload {folder} to {repo} on the hub: {first_line(error)[:300]}"
        ) from error
    return str(commit.commit_url)


def _download_error(repo: str, filename: str | None, revision: str | None, error: Exception) -> UserError:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return UserError(f"{repo} on the hub is gated: request access there, then run hf auth login")
    if isinstance(error, errors.RepositoryNotFoundError):
        return UserError(
            f"{repo!r} does not exist locally, and the hub has no such repository, or you may not read it"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return UserError(f"{repo} on the hub has no revision {revision!r}")
    if isinstance(error, errors.LocalEntryNotFoundError):
        return UserError(f"{repo!r} does not exist locally, and the hub cannot be reached")
    if isinstance(error, errors.EntryNotFoundError):
        return UserError(f"{repo} on the hub has no file {filename!r}")
    return UserError(f"cannot download {repo} from the hub: {first_line(error)[:300]}")
