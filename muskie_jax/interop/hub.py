"""The Hugging Face hub: weights from there, and folders of `save_pretrained` to there."""

import os
import pathlib
import re
from collections.abc import Collection

from muskie_jax.errors import UserError, first_line
from muskie_jax.files import user_path
from muskie_jax.interop.weights import SUFFIXES

REPO = re.compile(r"[\w.-]+/[\w.-]+")
WEIGHTS = "model.safetensors"  # of a folder made by `save_pretrained`, and of most repositories


def names_repository(source: str | os.PathLike, suffixes: Collection[str]) -> bool:
    """Whether what is not here may be a repository of the hub: it is no file's name, and in no folder.

    Args:
      source: as a user writes it.
      suffixes: of files of weights.
    """
    path = user_path(source)
    return path.suffix not in suffixes and not path.parent.is_dir() and bool(REPO.fullmatch(str(source)))


def download(
    repo: str,
    revision: str | None = None,
    filename: str | None = None,
    suffixes: tuple[str, ...] = SUFFIXES,
) -> pathlib.Path:
    """The file of weights of a repository, in the hub's cache on this computer.

    Args:
      repo: `user/name`.
      revision: a branch, tag or commit; None is the newest.
      filename: None is `model.safetensors`, or else the only file of weights that there is.
      suffixes: of files of weights.

    Raises:
      UserError: if there is no such repository or file, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        try:
            return pathlib.Path(hf_hub_download(repo, filename or WEIGHTS, revision=revision))
        except LocalEntryNotFoundError:  # offline; of the other kind too, so it comes first
            raise
        except EntryNotFoundError:
            if filename:
                raise
        files = HfApi().list_repo_files(repo, revision=revision)
        found = [name for name in files if name.endswith(suffixes)]
        if len(found) != 1:
            said = (
                f"has several: {', '.join(sorted(found))}; write one as filename=" if found else "has none"
            )
            raise UserError(f"which weights of the hub's {repo}? It has no {WEIGHTS}, and {said}")
        return pathlib.Path(hf_hub_download(repo, found[0], revision=revision))
    except UserError:
        raise
    except Exception as error:  # its errors are of many kinds, and those of the network below it too
        raise _not_got(repo, filename, revision, error) from error


def upload(folder: pathlib.Path, repo: str, private: bool) -> str:
    """Uploads a folder made by `save_pretrained`, as one commit; the repository is made if need be.

    Returns:
      The address of the commit.

    Raises:
      UserError: if the hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        api.create_repo(repo, private=private, exist_ok=True)
        done = api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Weights of Muskie")
    except Exception as error:
        raise UserError(f"the hub did not take {folder} as {repo}: {first_line(error)[:300]}") from error
    return str(done.commit_url)


def _not_got(repo: str, filename: str | None, revision: str | None, error: Exception) -> UserError:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return UserError(
            f"the hub's {repo} is for those whom its owner lets in: ask there, then hf auth login"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return UserError(f"there is no {repo!r} here, and no such repository on the hub that you may read")
    if isinstance(error, errors.RevisionNotFoundError):
        return UserError(f"the hub's {repo} has no revision {revision!r}")
    if isinstance(error, errors.LocalEntryNotFoundError):
        return UserError(f"there is no {repo!r} here, and the hub could not be reached for it")
    if isinstance(error, errors.EntryNotFoundError):
        return UserError(f"the hub's {repo} has no file {filename!r}")
    return UserError(f"{repo} could not be had from the hub: {first_line(error)[:300]}")
