"""The benchmarks that `evaluate suite` knows: what each is, where to ask for it, how it lies."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A published set.

    Attributes:
        ask: where to ask for it, or what is known of that.
        tree: how it is expected on disk; "" = unknown.
        protocol: what is reproduced.
        size: in words.
        licence: as its authors state it; "as its page says" where this table does not know.
        pairs: of each published list; None = other lists, or none.
        reader: whose public description or reader the layout is taken from.
        supported: whether `evaluate suite` runs it.
    """

    title: str
    what: str
    ask: str
    tree: str = ""
    protocol: str = ""
    size: str = ""
    licence: str = "as its page says"
    pairs: int | None = None
    reader: str = ""
    supported: bool = True


_FOLDS = "accuracy over 10 folds, threshold of the other nine"
_BIN = "insightface arcface_torch, eval/verification.py"
_LISTED = "whatever the folder, the images are where the list's names are files"

BENCHMARKS: dict[str, Benchmark] = {
    "lfw": Benchmark(
        title="LFW", what="photographs from the news, 1:1", pairs=6000,
        ask="vis-www.cs.umass.edu/lfw, or lfw.bin of insightface's training sets",
        tree="lfw.bin, or lfw*/pairs.txt (or pairs.csv) and below it Name/Name_0001.jpg",
        protocol=_FOLDS, size="6,000 pairs of 5,749 identities", reader="LFW README; " + _BIN,
    ),
    "cfp-fp": Benchmark(
        title="CFP-FP", what="frontal against profile, 1:1", pairs=7000,
        ask="www.cfpw.io, or cfp_fp.bin of insightface's training sets",
        tree="cfp_fp.bin, or cfp-dataset/ with Protocol/Pair_list_F.txt, Pair_list_P.txt, "
        "Split/FP/01/same.txt, diff.txt and Data/Images/001/frontal/01.jpg",
        protocol=_FOLDS + "; the folds of Split", size="7,000 pairs of 500 identities",
        reader=_BIN + "; several public readers of cfp-dataset agree",
    ),
    "cfp-ff": Benchmark(
        title="CFP-FF", what="frontal against frontal, 1:1", pairs=7000, ask="www.cfpw.io",
        tree="cfp_ff.bin, or as CFP-FP with Split/FF", protocol=_FOLDS + "; the folds of Split",
        size="7,000 pairs of 500 identities", reader="as CFP-FP",
    ),
    "agedb-30": Benchmark(
        title="AgeDB-30", what="30 years apart, 1:1", pairs=6000,
        ask="ibug.doc.ic.ac.uk/resources/agedb, or agedb_30.bin of insightface's training sets",
        tree="agedb_30.bin, or agedb*/*_ann.txt with lines `label path path` and the images",
        protocol=_FOLDS, size="6,000 pairs", reader=_BIN,
    ),
    "calfw": Benchmark(
        title="CALFW", what="LFW across age, 1:1", pairs=6000, ask="whdeng.cn/CALFW",
        tree="calfw.bin, or calfw*/pairs_CALFW.txt and below it Name_0001.jpg",
        protocol=_FOLDS, size="6,000 pairs", reader=_BIN,
    ),
    "cplfw": Benchmark(
        title="CPLFW", what="LFW across pose, 1:1", pairs=6000, ask="whdeng.cn/CPLFW",
        tree="cplfw.bin, or cplfw*/pairs_CPLFW.txt and below it Name_1.jpg",
        protocol=_FOLDS, size="6,000 pairs", reader=_BIN,
    ),
    "xqlfw": Benchmark(
        title="XQLFW", what="LFW, good against poor quality, 1:1", pairs=6000,
        ask="martlgap.github.io/xqlfw", licence="MIT (code); images as LFW",
        tree="xqlfw*/xqlfw_pairs.txt and xqlfw_aligned_112/ or the original images below it",
        protocol=_FOLDS, size="6,000 pairs", reader="Martlgap/xqlfw",
    ),
    "mlfw": Benchmark(
        title="MLFW", what="CALFW with masks drawn on, 1:1", pairs=6000, ask="whdeng.cn/mlfw",
        tree="mlfw*/pairs*.txt (CALFW's form, or `path path 0|1`) and the images below it",
        protocol=_FOLDS, size="6,000 pairs",
        reader="its page: CALFW's protocol; " + _LISTED,
    ),
    "mfr2": Benchmark(
        title="MFR2", what="celebrities with and without masks, 1:1",
        ask="github.com/aqeelanwar/MaskTheFace",
        tree="mfr2*/pairs.txt (LFW's form, or CSV) and below it Name/Name_0001.png",
        protocol="accuracy over folds; its list is cut in the order of the file",
        size="53 identities", reader="LFW's form; " + _LISTED,
    ),
    "rfw": Benchmark(
        title="RFW", what="four groups, 1:1 within each", pairs=6000,
        ask="whdeng.cn/RFW, by letter", licence="research only",
        tree="test/txts/RACE/RACE_pairs.txt (no header line) and test/data/RACE/ID/ID_0001.jpg, "
        "RACE = African, Asian, Caucasian, Indian",
        protocol="a figure for each group; " + _FOLDS, size="6,000 pairs a group",
        reader="zseljee/re-faircal, data/README.md",
    ),
    "bfw": Benchmark(
        title="BFW", what="eight balanced subgroups, 1:1",
        ask="github.com/visionjo/facerec-bias-bfw",
        licence="research and education",
        tree="bfw*.csv with fold, p1, p2, label, att1, att2 and below its folder "
        "asian_females/n000009/0010_01.jpg",
        protocol="all pairs and those within each subgroup; five folds of the table",
        size="eight subgroups",
        reader="visionjo/facerec-bias-bfw, data/README.md",
    ),
    "tinyface": Benchmark(
        title="TinyFace", what="native low resolution, 1:N with distractors",
        ask="qmul-tinyface.github.io",
        tree="Testing_Set/Probe, Gallery_Match and Gallery_Distractor (or the three in "
        "tinyface_aligned_112/); identity = number before the first underline",
        protocol="rank 1, 5, 20 among matches and distractors; ranks count identities",
        size="153,428 distractors",
        reader="mk-minchul/CVLface, evaluations/tinyface",
    ),
    "scface": Benchmark(
        title="SCface", what="surveillance cameras against mugshots, 1:N", ask="scface.org",
        licence="research only, by letter",
        tree="mugshot_frontal_cropped_all/001_frontal.JPG and "
        "surveillance_cameras_distance_1/cam_1/001_cam1_1.jpg",
        protocol="rank 1 at each of three distances, cameras 1 to 5, all identities, no training",
        size="130 identities", reader="bob.db.scface; several public readers agree",
    ),
    "rmfrd": Benchmark(
        title="RMFRD", what="real masks, 1:N",
        ask="github.com/X-zhangyang/Real-World-Masked-Face-Dataset; cleaned: AvLab-CV",
        tree="AFDB_masked_face_dataset/NAME/1.jpg and AFDB_face_dataset/NAME/1.jpg",
        protocol="no list is published: all masked images are searched among all bare ones",
        size="cleaned: 831 masked, 3,627 bare images of 248 identities", reader="AvLab-CV",
    ),
    "ocfr-2022": Benchmark(
        title="OCFR-2022", what="LFW with drawn occluders, 1:1, true masks",
        ask="github.com/NetoPedro/OCFR-2022", licence="CC BY-NC-SA",
        tree="C_O1_list.txt … C_O7_list.txt (path, then a box), one *pairs*.txt (two names a "
        "line), one *issame*.txt (0|1 a line) and the occluded images where the lists name them",
        protocol="a figure for each list; FMR100 and FMR1000 are 1 − TAR at FAR 1e-2 and 1e-3",
        size="8 protocols", reader="NetoPedro/OCFR-2022, README.md and evaluate.py",
    ),
    "ijb-b": Benchmark(
        title="IJB-B", what="templates of images and frames, 1:1 and 1:N", ask="NIST, by letter",
        licence="NIST's", tree="loose_crop/ and meta/ijbb_*.txt", size="1,845 identities",
        protocol="as `evaluate ijb`", reader="insightface arcface_torch, eval_ijbc.py",
    ),
    "ijb-c": Benchmark(
        title="IJB-C", what="templates of images and frames, 1:1 and 1:N",
        ask="NIST, by letter; users report that it has stopped handing it out",
        licence="NIST's", tree="loose_crop/ and meta/ijbc_*.txt", size="3,531 identities",
        protocol="as `evaluate ijb`", reader="insightface arcface_torch, eval_ijbc.py",
    ),
    "nd-twin": Benchmark(
        title="ND-TWIN", what="identical twins, 1:1", ask="cvrl.nd.edu, by letter",
        licence="Notre Dame's", tree="id_to_images.json, next to it pairs.json "
        "({split: [[id, id], …]}) and the images below",
        protocol="all pairs of images of one identity and across two twins, a figure a split",
        reader="the list format of `evaluate verification`",
    ),
    "cvlface": Benchmark(
        title="CVLFace's IJB folders", what="Arrow folders of templates", supported=False,
        ask="github.com/mk-minchul/CVLface, behind a password",
        protocol="their metadata.pt is not documented; the other Arrow folders are read as the "
        "set that they are called after (pip install 'faceguide[arrow]')",
    ),
    "rmfvd": Benchmark(
        title="RMFVD", what="real masks, 7,178 pairs, 1:1", supported=False,
        ask="github.com/X-zhangyang/Real-World-Masked-Face-Dataset",
        protocol="the form of its list is not documented",
    ),
    "rof": Benchmark(
        title="ROF", what="real sunglasses and masks", supported=False,
        ask="github.com/ekremerakin/RealWorldOccludedFaces",
        protocol="its lists are not documented",
    ),
    "megaface": Benchmark(
        title="MegaFace and FaceScrub", what="a million distractors", supported=False,
        ask="withdrawn", protocol="MegaFace-Mask needs its images",
    ),
    "ijb-s": Benchmark(
        title="IJB-S", what="surveillance video", supported=False, ask="NIST, by letter",
        protocol="its protocols are not reproduced here",
    ),
}  # fmt: skip


def benchmark_list() -> str:
    """What `--list` prints."""
    lines = []
    for name, one in BENCHMARKS.items():
        lines.append(
            f"{name}: {one.title}, {one.what}" + "; not supported yet" * (not one.supported)
        )
        about = {
            "ask": one.ask,
            "layout": one.tree,
            "protocol": one.protocol,
            "size": one.size,
            "licence": one.licence if one.supported else "",
            "layout from": one.reader,
        }
        lines += [f"  {label:12}{text}" for label, text in about.items() if text]
    return "\n".join(lines)
