"""What looks wrong about an input, although it could be used: counted, said, and kept.

An error stops a command. A doubt does not: it is one line on stderr and one number in `--json`
(`"doubts"`), and the figures are made all the same.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from faceguide.core.commands.console import say
from faceguide.core.errors import CacheError
from faceguide.core.files import read_json, write_json

# Kind → what is counted, as the line on stderr says it after the number, [of one|of several].
KINDS: Mapping[str, str] = {
    # training
    "learnt_identities": "[identity|identities] of --pairs [is|are] learnt too, so the best "
    "weights are chosen on identities that they know: leave them out with --meta, or choose "
    "other pairs",
    # lists of pairs, galleries, tables
    "contradict_labels": "[pair contradicts|pairs contradict] the labels of the cache",
    "contradict_list": "[pair|pairs] of two identities [is|are] made one by other pairs of the "
    "list",
    "inverted_labels": "[label agrees|labels agree] with the cache only when 0 and 1 are exchanged",
    "self_pairs": "[pair compares|pairs compare] an image with itself",
    "equal_images": "[pair compares|pairs compare] two rows with equal pixels",
    "repeated_pairs": "[pair repeats|pairs repeat] an earlier pair",
    "ranked_backwards": "[pair scores|pairs score] higher where listed as two identities; are 0 "
    "and 1 exchanged?",
    "shifted_labels": "[label agrees|labels agree] with the cache only when the column is shifted "
    "by a line",
    "not_enrolled": "[search has|searches have] no probe of an enrolled identity",
    "absent_images": "[image|images] of the list [is|are] not in the cache",
    "loose_names": "[name matches|names match] a row by a file name that other folders have too",
    # twins
    "identities_without_images": "[identity has|identities have] no list of images and [is|are] "
    "left out",
    "twins_without_images": "[pair of twins has|pairs of twins have] no images, or [is|are] of one "
    "identity, and [is|are] left out",
    "shared_splits": "[identity stands|identities stand] in several splits and [is|are] learnt in "
    "none",
    "twin_groups": "[group|groups] of twins [has|have] more than two identities",
    "moved_images": "[path names|paths name] no file and [was|were] found by [its end|their ends]",
    "suspected_duplicates": "[couple|couples] of identities [is|are] so alike that [it is|they "
    "are] probably one under two names; left out",
    # sources of images
    "parts_as_identities": "[folder|folders] taken for identities [looks|look] like parts of a "
    "set; give prep one of them, or --flat",
    "single_identity": "[identity is|identities are] all there is; nothing can be compared",
    "spellings": "[identity differs|identities differ] from another only in case, blanks, Unicode "
    "form or zeros",
    "no_identity": "[image names|images name] no identity (empty, nan, -1 or the like); kept "
    "without one",
    "guessed_identity_column": "[column is|columns are] taken for the identity, as none is called "
    "identity",
    "no_identity_column": "[list has|lists have] no column of identities, only others; call it "
    "identity",
    "two_identities": "[image stands|images stand] under more than one identity",
    "repeated_images": "[image is|images are] repeated under the same identity",
    "masks_beside_images": "[mask lies|masks lie] next to [its photograph|their photographs] and "
    "[is|are] not taken for [a face|faces]",
    "thumbnail_folders": "[folder|folders] of thumbnails or waste [is|are] left out",
    "unread_formats": "[picture is|pictures are] of a format that is not read here; convert "
    "[it|them] to JPEG or PNG",
    "links_outside": "folder [link leads|links lead] out of the source and [is|are] not followed; "
    "give prep the folder [it leads|they lead] to, or a CSV of the images in a folder above both",
    "links_upwards": "folder [link leads|links lead] to a folder above [it|them] and [is|are] not "
    "followed",
    "links_repeated": "folder [link leads|links lead] to a folder that another link leads to, and "
    "[is|are] not followed",
    "odd_labels": "[record has|records have] a label that is not a whole number from 0 to 2**24; "
    "it is kept",
    "header_count": "[header|headers] of the records [promises|promise] another number of images",
    "held_already": "[image is|images are] left out, as the cache of --like holds [it|them]",
    "changed_images": "[image has|images have] a key of the cache of --like and other content; "
    "kept",
    # masks
    "eyes_hidden": "[face has|faces have] mostly occluded eyes; is --polarity inverted?",
    "polarity_against_layout": "[mask|masks] next to kept_faces/, where white means visible, "
    "[is|are] read as occluded",
    # visibility that a network estimated
    "contradicted_masks": "[mask contradicts|masks contradict] the estimate in more than half of "
    "the face; is --polarity inverted, or is such a cover unknown to the network?",
    "estimated_visibility": "[row has|rows have] a visibility that `prep masks --estimate` "
    "estimated, not one from a mask",
    # imported landmarks
    "derived_irises": "imported [face has|faces have] 468 points, [its|their] irises derived from "
    "the contours of the eyes; refine_landmarks=True gives 478",
    "unchecked_landmarks": "imported [face is|faces are] unchecked: no finder is installed "
    "(pip install 'faceguide[prep]') or it finds no face in [its image|their images]",
    "landmarks_elsewhere": "of up to 32 compared faces [lies|lie] elsewhere than detection finds "
    "[it|them]",
    # networks
    "scale_assumed": "ONNX [graph does|graphs do] not scale [its|their] pixels, so [it is|they "
    "are] given what insightface gives such graphs",
    "untrained": "[network has|networks have] the BatchNorm statistics of a new one, as if never "
    "trained",
    "calibrated_otherwise": "[calibration was|calibrations were] fitted for other weights, or for "
    "visibility from elsewhere; run `evaluate calibrate` for these",
    # several caches as one
    "shared_keys": "[key stands|keys stand] in more than one cache, so a list has to write "
    "VOLUME:KEY",
    "decided_identities": "[identity is|identities are] in both lists, so thresholds are set on "
    "identities that they are tested on",
    # files of a cache
    "damaged_shards": "[shard is|shards are] missing or not what was written",
    # networks that are explained
    "network_does_not_separate": "[pair was|pairs were] scored by a network that does not tell "
    "[it|them] apart",
    "unscored_chimeras": "[chimera has|chimeras have] no finite score; their maps count as failed",
    "effects_within_noise": "[pair changes its|pairs change their] score by no more than noise, "
    "whatever is replaced",
}
_ONE_OR_SEVERAL = re.compile(r"\[([^|\]]+)\|([^\]]+)\]")


# Kinds that are said when weights are read, hours before the figures.
OF_WEIGHTS = ("scale_assumed", "untrained")

# Group → the stages that may keep doubts about it.
STAGES: Mapping[str, tuple[str, ...]] = {
    "faces": ("sources", "images", "faces"),
    "guidance": (),
    "occlusion": ("masks", "estimates"),
}


def doubts_path(directory: Path, stage: str) -> Path:
    """Where a stage keeps its doubts."""
    return directory / f"doubts-{stage}.json"


def phrase(kind: str, count: int) -> str:
    """What stands behind the number."""
    return _ONE_OR_SEVERAL.sub(r"\1" if count == 1 else r"\2", KINDS[kind])


class Doubts:
    """Counts of doubts by kind, each with its first example."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, str]] = {}

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, kind: str, example: str = "", count: int = 1) -> None:
        """Count a doubt.

        Args:
            kind: one of `KINDS`.
            example: names an item, for the line; the first is shown.
            count: 0 adds nothing.
        """
        if kind not in KINDS:
            raise KeyError(kind)
        if count:
            so_far, first = self._found.get(kind, (0, example))
            self._found[kind] = so_far + count, first

    def update(self, other: Doubts) -> None:
        for kind, (count, example) in other._found.items():
            self.add(kind, example, count)

    def counts(self) -> dict[str, int]:
        """Kind → count, as `--json` prints it; kinds without a doubt are absent."""
        return {kind: count for kind, (count, _) in self._found.items()}

    def lines(self) -> list[str]:
        """One line a kind."""
        return [
            f"{count:,} {phrase(kind, count)}" + (f" (the first: {example})" if example else "")
            for kind, (count, example) in self._found.items()
        ]

    def say(self, but: Collection[str] = ()) -> None:
        """Each line on stderr, except of kinds that were said before."""
        for kind, line in zip(self._found, self.lines(), strict=True):
            if kind not in but:
                say(f"Warning: {line}")

    @classmethod
    def of(cls, counts: Mapping[str, int]) -> Doubts:
        """Those of a record, which holds `counts`."""
        doubts = cls()
        for kind, count in counts.items():
            doubts.add(kind, count=count)
        return doubts

    def keep(self, directory: Path, stage: str) -> None:
        """Keep them next to what they are about, for a resumed command and for `cache info`."""
        path = doubts_path(directory, stage)
        if self:
            write_json(path, {kind: list(found) for kind, found in self._found.items()})
        elif path.exists():  # on a read-only disk a removal is refused even of what is not there
            path.unlink(missing_ok=True)

    @classmethod
    def kept(cls, directory: Path, stage: str) -> Doubts:
        """Those that `keep` wrote; none where there is no file."""
        doubts = cls()
        path = doubts_path(directory, stage)
        if path.exists():
            for kind, found in read_json(path).items():
                match found:
                    case [int(count), str(example)] if kind in KINDS and count > 0:
                        doubts.add(kind, example, count)
                    case _:
                        raise CacheError(f"{path}: not a file of this version; remove it")
        return doubts

    @classmethod
    def kept_of(cls, directory: Path, groups: Iterable[str]) -> Doubts:
        """Those that all stages of some groups kept."""
        doubts = cls()
        for group in groups:
            for stage in STAGES[group]:
                doubts.update(cls.kept(directory, stage))
        return doubts
