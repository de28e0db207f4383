"""What the official releases hold, under which terms, and where to apply for them.

Facts only, each with its source; `counts` compares them with a folder, `docs/data/` has a card for
each data set. A licence marked "not verified" could not be read at its owner's site when this was
written: its text there is what counts.

Counts marked (table) were counted in the official tables that torchxrayvision 1.5.7 packages; a
test counts them again.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Official:
    """A data set as its owners distribute it.

    Attributes:
        counts: what `counts.count` finds in a complete release, and `source` where they were read.
        licence: terms in short, and where they were read.
        apply: where to get it.
        tree: the layout below the data set's folder.
    """

    title: str
    counts: dict[str, int]
    source: str
    licence: str
    apply: str
    tree: tuple[str, ...]


OFFICIAL: dict[str, Official] = {
    "chestxray14": Official(
        title="NIH ChestX-ray14",
        counts={"images": 112_120, "test images": 25_596, "boxes": 984, "boxed images": 880},
        source="(table); the length of test_list.txt: Wang et al.'s release notes, not verified",
        licence=(
            "no restriction of use; link to the site, cite Wang et al. (CVPR 2017), acknowledge "
            "the NIH Clinical Center (Google Cloud's page of the data set)"
        ),
        apply="https://nihcc.app.box.com/v/ChestXray-NIHCC (no application)",
        tree=(
            "images_001/images/*.png ... images_012/images/*.png (or images/*.png)",
            "Data_Entry_2017_v2020.csv (or Data_Entry_2017.csv)",
            "test_list.txt",
            "BBox_List_2017.csv",
        ),
    ),
    "chexpert": Official(
        title="CheXpert",
        counts={"training images": 223_414, "validation images": 234},
        source="(table) for train.csv; the mirror danjacobellis/chexpert (223,414 and 234 rows)",
        licence="Stanford's research use agreement, accepted on registration; not verified",
        apply="https://stanfordmlgroup.github.io/competitions/chexpert/ (registration)",
        tree=(
            "CheXpert-v1.0-small/ (or CheXpert-v1.0/)",
            "  train.csv, valid.csv",
            "  {train,valid}/patientNNNNN/studyN/viewN_frontal.jpg",
        ),
    ),
    "covidx": Official(
        title="COVIDx CXR-3",
        counts={"training images": 29_986, "test images": 400},
        source="Pavlova et al. 2022 (arXiv 2206.03671): 30,386 images; 29,986 are for training",
        licence="a compilation, each part under its own licence; not verified",
        apply="https://www.kaggle.com/datasets/andyczhao/covidx-cxr2 (its CXR-3 version; account)",
        tree=("train.txt, test.txt (patient file label source)", "train/*.png, test/*.png"),
    ),
    "rsna": Official(
        title="RSNA Pneumonia Detection Challenge 2018",
        counts={"rows": 30_227, "images": 26_684, "positive images": 6_012, "boxes": 9_555},
        source="(table)",
        licence=(
            "academic and other use, commercial included, with attribution (rsna.org's page of the "
            "challenge); Kaggle's rules for the same files were not verified"
        ),
        apply="https://www.kaggle.com/c/rsna-pneumonia-detection-challenge (account)",
        tree=("stage_2_train_images/<patientId>.dcm", "stage_2_train_labels.csv"),
    ),
    "siim": Official(
        title="SIIM-ACR Pneumothorax Segmentation 2019",
        counts={
            "rows": 12_954,
            "images": 12_047,
            "positive images": 2_669,
            "images with several rows": 624,
        },
        source="(table)",
        licence="the challenge's rules; not verified",
        apply="https://www.kaggle.com/c/siim-acr-pneumothorax-segmentation (account)",
        tree=("dicom-images-train/<study>/<series>/<image>.dcm", "train-rle.csv"),
    ),
    "covid-rural": Official(
        title="COVID Rural (TCIA COVID-19-AR with outlined opacities)",
        counts={"films": 224, "outlined films": 221, "masks": 193},
        source="the file listing of haimingt/opacity_segmentation_covid_chest_X_ray at 066d40b",
        licence=(
            "films: CC BY 4.0 (stated by users of the TCIA collection, doi "
            "10.7937/TCIA.2020.PY71-5978); annotations: the repository states none"
        ),
        apply="https://github.com/haimingt/opacity_segmentation_covid_chest_X_ray (no application)",
        tree=("jpgs/*.jpg", "jpgs/jsons/*.json", "pngs_masks/*.png"),
    ),
    "mimic-cxr": Official(
        title="MIMIC-CXR (reports) and MIMIC-CXR-JPG",
        counts={"images": 377_110, "reports": 227_835},
        source="Johnson et al., Scientific Data 2019 (PMC6908718): 377,110 images, 227,835 studies",
        licence="PhysioNet's credentialed health data licence: training, a data use agreement",
        apply="https://physionet.org/content/mimic-cxr/ and .../mimic-cxr-jpg/ (credentialing)",
        tree=(
            "files/pNN/pNNNNNNNN/sNNNNNNNN.txt (reports)",
            "files/pNN/pNNNNNNNN/sNNNNNNNN/<dicom_id>.jpg",
            "mimic-cxr-2.0.0-{split,metadata,chexpert}.csv.gz",
        ),
    ),
    "openi": Official(
        title="Open-I (Indiana University), not in the paper's tables",
        counts={"images": 7_470},
        source="torchxrayvision's documentation of `Openi_Dataset`",
        licence="CC BY-NC-ND 4.0 (the licenseURL of the reports' XML files)",
        apply="https://openi.nlm.nih.gov/faq (no application)",
        tree=("NLMCXR_png/*.png",),
    ),
}
