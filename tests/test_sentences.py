"""Sentences as radiologists write them, by kind, with the triplets that a reader would take.

Expected values were written from the meaning of the sentence, before the rules that find them.
"""

import pytest

from rctpl_utils.text.concepts.spacy_extractor import SpacyExtractor
from rctpl_utils.text.reports import Report

EXTRACTOR = SpacyExtractor()
ABSENT, PRESENT, UNSURE = "absent", "present", "uncertain"
PTX, EFF, CMG, PNA, EDEMA = "Pneumothorax", "Pleural Effusion", "Cardiomegaly", "Pneumonia", "Edema"
CONS, ATEL, NOD, OPAC, DEV = (
    "Consolidation", "Atelectasis", "Nodule", "Lung Opacity", "Support Devices",
)  # fmt: skip

# kind -> sentence -> {concept: assertion}
ASSERTED = {
    "plain": {
        "There is cardiomegaly.": {CMG: PRESENT},
        "The heart is mildly enlarged.": {CMG: PRESENT},
        "Heart size is within normal limits.": {CMG: ABSENT},
        "The cardiac silhouette is not enlarged.": {CMG: ABSENT},
        "No focal consolidation, pneumothorax or pleural effusion.": {
            CONS: ABSENT, PTX: ABSENT, EFF: ABSENT,
        },
        "Pneumothorax is not seen.": {PTX: ABSENT},
        "The pneumothorax has resolved.": {PTX: ABSENT},
        "Interval resolution of the effusion.": {EFF: ABSENT},
        "Resolving pulmonary edema.": {EDEMA: PRESENT},
        "No change in the small effusion.": {EFF: PRESENT},
        "Stable effusion, without significant change.": {EFF: PRESENT},
        "Cardiomegaly without edema.": {CMG: PRESENT, EDEMA: ABSENT},
        "No edema, but there is an effusion.": {EDEMA: ABSENT, EFF: PRESENT},
        "Cannot exclude pneumonia.": {PNA: UNSURE},
        "Possible pneumonia.": {PNA: UNSURE},
        "Pneumonia is possible.": {PNA: UNSURE},
        "Atelectasis versus scarring.": {ATEL: UNSURE, "Fibrosis": UNSURE},
        "An opacity may represent pneumonia.": {OPAC: PRESENT, PNA: UNSURE},
        "Mild opacity, atelectasis versus infiltrate.": {
            OPAC: PRESENT, ATEL: UNSURE, "Infiltration": UNSURE,
        },
        "Probable small effusion.": {EFF: PRESENT},
        "Small pericardial effusion.": {},
        "Subcutaneous emphysema.": {},
        "Emphysema.": {"Emphysema": PRESENT},
        "Hydropneumothorax.": {PTX: PRESENT, EFF: PRESENT},
        "A Port-A-Cath is in place.": {DEV: PRESENT},
        "Findings typical of COVID-19 pneumonia.": {"COVID-19": PRESENT},
        "No evidence of SARS-CoV-2 infection.": {"COVID-19": ABSENT},
        "Nothing to report.": {},
    },
    "denied after the finding": {
        "Pneumothorax: No.": {PTX: ABSENT},
        "Pneumothorax: none.": {PTX: ABSENT},
        "Pleural effusion - none.": {EFF: ABSENT},
        "Consolidation: not seen.": {CONS: ABSENT},
        "Edema: Absent.": {EDEMA: ABSENT},
        "Effusion: negative.": {EFF: ABSENT},
        "Pneumothorax has been ruled out.": {PTX: ABSENT},
        "Pneumonia has been excluded.": {PNA: ABSENT},
        "Pulmonary edema is ruled out.": {EDEMA: ABSENT},
        "Pneumothorax is not demonstrated.": {PTX: ABSENT},
        "Pleural effusions are not seen.": {EFF: ABSENT},
        "A pneumothorax could not be identified.": {PTX: ABSENT},
        "Pneumothorax or effusion: none.": {PTX: ABSENT, EFF: ABSENT},
        "Pneumothorax, no.": {PTX: ABSENT},
        "Pneumothorax (none).": {PTX: ABSENT},
        "Pneumothorax = none.": {PTX: ABSENT},
        "Pneumothorax, effusion: none.": {PTX: ABSENT, EFF: ABSENT},
        "Pneumothorax is confidently excluded.": {PTX: ABSENT},
        "Pneumothorax can be excluded.": {PTX: ABSENT},
        "Pneumothorax: Yes.": {PTX: PRESENT},
        "Effusion: small.": {EFF: PRESENT},
        "Pleural effusion: Present.": {EFF: PRESENT},
        "Pneumonia: possible.": {PNA: UNSURE},
        "Pneumothorax: cannot be excluded.": {PTX: UNSURE},
    },
    "a contraction": {
        "There isn't any pneumothorax.": {PTX: ABSENT},
        "I don't see a pneumothorax.": {PTX: ABSENT},
        "Pneumothorax can't be seen.": {PTX: ABSENT},
        "Effusions aren\u2019t seen.": {EFF: ABSENT},
        "Effusion hasn't resolved.": {EFF: PRESENT},
        "Pneumonia can't be excluded.": {PNA: UNSURE},
        "Can\u2019t exclude a small effusion.": {EFF: UNSURE},
        "The heart isn't enlarged.": {CMG: ABSENT},
    },
    "an answer of a form": {
        "PTX: -ve.": {PTX: ABSENT},
        "Pneumothorax: N.": {PTX: ABSENT},
        "Pneumothorax: none visualized.": {PTX: ABSENT},
        "Consolidation: No focal.": {CONS: ABSENT},
        "Effusion: positive.": {EFF: PRESENT},
        "Pneumothorax? Yes, small, left.": {PTX: PRESENT},
        "Pneumothorax - negative, effusion - small left.": {PTX: ABSENT, EFF: PRESENT},
        "Pneumothorax: no, effusion: yes.": {PTX: ABSENT, EFF: PRESENT},
    },
    "a denial that ends at a size": {
        "No consolidation, large effusion, or pneumothorax.": {
            CONS: ABSENT, EFF: ABSENT, PTX: ABSENT,
        },
        "No consolidation, large effusion/pneumothorax.": {CONS: ABSENT, EFF: ABSENT, PTX: ABSENT},
        "No pneumothorax, large left effusion.": {PTX: ABSENT, EFF: PRESENT},
        "No cardiomegaly, trace effusions bilaterally.": {CMG: ABSENT, EFF: PRESENT},
    },
    "an answer under its heading": {
        "Pneumothorax: no pneumothorax.": {PTX: ABSENT},
        "PLEURAL EFFUSION: No evidence of effusion.": {EFF: ABSENT},
        "CONSOLIDATION: There is no consolidation or edema.": {CONS: ABSENT, EDEMA: ABSENT},
        "PLEURAL EFFUSION: None. PNEUMOTHORAX: Small left pneumothorax.": {
            EFF: ABSENT, PTX: PRESENT,
        },
        "Pneumothorax: not visualized.": {PTX: ABSENT},
        "Pneumothorax: Not appreciated.": {PTX: ABSENT},
        "Pneumothorax: no significant.": {PTX: ABSENT},
        "Cardiomegaly 0.": {CMG: PRESENT},
        "Pneumothorax: cannot exclude.": {PTX: UNSURE},
        "Pneumothorax: unlikely.": {PTX: UNSURE},
        "Pneumothorax: nearly resolved.": {PTX: PRESENT},
        "Pneumothorax: no change.": {PTX: PRESENT},
        "Pneumothorax -- none.": {PTX: ABSENT},
        "Pneumothorax none.": {PTX: ABSENT},
        "Effusion no.": {EFF: ABSENT},
        "No effusion or pneumothorax present.": {EFF: ABSENT, PTX: ABSENT},
        "-ve for pneumothorax.": {PTX: ABSENT},
        "LUNGS: No consolidation or effusion. HEART: Enlarged. LINES: ETT.": {
            CONS: ABSENT, EFF: ABSENT, CMG: PRESENT, DEV: PRESENT,
        },
    },
    "what stays of a denial": {
        "No pneumothorax and moderate cardiomegaly.": {PTX: ABSENT, CMG: PRESENT},
        "No pneumothorax and mild bibasilar atelectasis.": {PTX: ABSENT, ATEL: PRESENT},
        "No edema and mildly enlarged heart.": {EDEMA: ABSENT, CMG: PRESENT},
        "No pneumothorax and large effusion.": {PTX: ABSENT, EFF: ABSENT},
        "No effusion and small or moderate pneumothorax.": {EFF: ABSENT, PTX: ABSENT},
        "Without pneumothorax, left PICC ends in the SVC.": {PTX: ABSENT, DEV: PRESENT},
        "No PTX, ETT in standard position.": {PTX: ABSENT, DEV: PRESENT},
        "No pneumothorax, chest tube in place.": {PTX: ABSENT, DEV: PRESENT},
        "No pneumothorax, NGT or ETT.": {PTX: ABSENT, DEV: ABSENT},
        "No pneumothorax after chest tube placement.": {PTX: ABSENT, DEV: PRESENT},
        "No residual effusion following pigtail drain placement.": {EFF: ABSENT, DEV: PRESENT},
    },
    "denied by its course": {
        "Pneumothorax has not recurred.": {PTX: ABSENT},
        "The effusion has not reaccumulated.": {EFF: ABSENT},
        "No recurrent pneumothorax.": {PTX: ABSENT},
        "The effusion has not increased.": {EFF: PRESENT},
        "Substantial resolution of edema.": {EDEMA: PRESENT},
        "Effusion neither on the right nor on the left.": {EFF: ABSENT},
    },
    "a device that is removed": {
        "NG tube is out.": {DEV: ABSENT},
        "ETT is out of position.": {DEV: PRESENT},
        "PICC has been pulled.": {DEV: ABSENT},
        "The PICC has been pulled back.": {DEV: PRESENT},
        "S/p removal of left chest tube, tiny left apical PTX.": {DEV: ABSENT, PTX: PRESENT},
        "Small pneumothorax, chest tube removed.": {PTX: PRESENT, DEV: ABSENT},
        "Removal of chest tube and small pneumothorax.": {DEV: ABSENT, PTX: PRESENT},
        "Chest tube has been removed, no pneumothorax.": {DEV: ABSENT, PTX: ABSENT},
    },
    "doubt": {
        "Query small left pneumothorax.": {PTX: UNSURE},
        "Pneumothorax not ruled out.": {PTX: UNSURE},
        "Unlikely pneumonia.": {PNA: UNSURE},
        "Low likelihood of pneumonia.": {PNA: UNSURE},
        "Doubtful pneumonia.": {PNA: UNSURE},
        "Not clear whether this is pneumonia.": {PNA: UNSURE},
        "Nothing to suggest pneumonia.": {PNA: ABSENT},
        "None of the lobes shows consolidation.": {CONS: ABSENT},
        "There is no longer a pneumothorax.": {PTX: ABSENT},
        "The pneumothorax is no longer visible.": {PTX: ABSENT},
    },
    "a new clause": {
        "There is no pneumothorax and the small right effusion persists.": {
            PTX: ABSENT, EFF: PRESENT,
        },
        "No pneumothorax and there is a small effusion.": {PTX: ABSENT, EFF: PRESENT},
        "No acute disease, stable right upper lobe nodule.": {NOD: PRESENT},
        "No consolidation, unchanged cardiomegaly.": {CONS: ABSENT, CMG: PRESENT},
        "No edema and the heart is enlarged.": {EDEMA: ABSENT, CMG: PRESENT},
        "No focal consolidation, the heart is mildly enlarged.": {CONS: ABSENT, CMG: PRESENT},
        "Without pneumothorax, the chest tube is unchanged.": {PTX: ABSENT, DEV: PRESENT},
        "Without effusion or edema, the picc line tip is in the SVC.": {
            EFF: ABSENT, EDEMA: ABSENT, DEV: PRESENT,
        },
        "No pneumothorax is seen and an opacity remains in the left base.": {
            PTX: ABSENT, OPAC: PRESENT,
        },
        "No pneumothorax, but the effusion has increased.": {PTX: ABSENT, EFF: PRESENT},
        "No effusion while cardiomegaly persists.": {EFF: ABSENT, CMG: PRESENT},
        "There is no effusion; atelectasis at the left base.": {EFF: ABSENT, ATEL: PRESENT},
        "No pneumothorax, persistent small left effusion.": {PTX: ABSENT, EFF: PRESENT},
        "No pneumothorax or effusion, with stable atelectasis.": {
            PTX: ABSENT, EFF: ABSENT, ATEL: PRESENT,
        },
        "No evidence of pneumothorax, chronic atelectasis at the base.": {
            PTX: ABSENT, ATEL: PRESENT,
        },
        "Cardiomegaly and no edema.": {CMG: PRESENT, EDEMA: ABSENT},
        "No pneumothorax following removal of the chest tube.": {PTX: ABSENT, DEV: ABSENT},
        "No effusion, and again seen is a left lower lobe nodule.": {EFF: ABSENT, NOD: PRESENT},
    },
    "a clause of its own": {
        "No pneumothorax and small left effusion is unchanged.": {PTX: ABSENT, EFF: PRESENT},
        "No pneumothorax, left effusion has increased.": {PTX: ABSENT, EFF: PRESENT},
        "No effusion and no pneumothorax, cardiomegaly is stable.": {
            EFF: ABSENT, PTX: ABSENT, CMG: PRESENT,
        },
        "No pneumothorax is seen and heart size is enlarged.": {PTX: ABSENT, CMG: PRESENT},
        "No effusion or pneumothorax persists.": {EFF: ABSENT, PTX: ABSENT},
    },
    "one denial for several": {
        "There is no evidence of pneumothorax or large pleural effusion.": {
            PTX: ABSENT, EFF: ABSENT,
        },
        "No pneumothorax, large effusion, or focal consolidation.": {
            PTX: ABSENT, EFF: ABSENT, CONS: ABSENT,
        },
        "No pneumothorax, pleural effusion and pulmonary edema.": {
            PTX: ABSENT, EFF: ABSENT, EDEMA: ABSENT,
        },
        "Neither effusion nor pneumothorax is present.": {EFF: ABSENT, PTX: ABSENT},
        "Negative for pneumonia, pneumothorax and effusion.": {
            PNA: ABSENT, PTX: ABSENT, EFF: ABSENT,
        },
        "Free of consolidation, effusion or edema.": {CONS: ABSENT, EFF: ABSENT, EDEMA: ABSENT},
        "No new consolidation, effusion, or pneumothorax.": {
            CONS: ABSENT, EFF: ABSENT, PTX: ABSENT,
        },
        "No suspicious pulmonary nodules or masses.": {NOD: ABSENT, "Mass": ABSENT},
        "The lungs are without focal consolidation or edema.": {CONS: ABSENT, EDEMA: ABSENT},
        "No pleural effusion or pneumothorax is identified on either side.": {
            EFF: ABSENT, PTX: ABSENT,
        },
    },
    "a degree is denied": {
        "Vascular congestion without frank edema.": {EDEMA: ABSENT},
        "Pulmonary vascular congestion without overt pulmonary edema.": {EDEMA: ABSENT},
        "Vascular congestion.": {EDEMA: PRESENT},
        "There is no pulmonary vascular congestion.": {EDEMA: ABSENT},
        "Vascular congestion has resolved.": {EDEMA: ABSENT},
        "Cardiomegaly with vascular congestion, no effusion.": {
            CMG: PRESENT, EDEMA: PRESENT, EFF: ABSENT,
        },
    },
    "compared with a prior": {
        "Right effusion has nearly resolved.": {EFF: PRESENT},
        "Right effusion has almost completely resolved.": {EFF: PRESENT},
        "The effusion has resolved.": {EFF: ABSENT},
        "Partial resolution of the effusion.": {EFF: PRESENT},
        "Near complete resolution of the pneumothorax.": {PTX: PRESENT},
        "No worsening of the effusion.": {EFF: PRESENT},
        "No significant enlargement of the effusion.": {EFF: PRESENT},
        "The opacity has disappeared.": {OPAC: ABSENT},
        "Previously seen effusion has resolved.": {EFF: ABSENT},
        "Interval resolution of the pneumothorax.": {PTX: ABSENT},
        "The pneumothorax is no longer seen.": {PTX: ABSENT},
        "The opacity is no longer visualized.": {OPAC: ABSENT},
        "The nodule is not as well seen today.": {NOD: PRESENT},
        "9 mm nodule, not seen on prior exams.": {NOD: PRESENT},
        "New left effusion, not present on the prior study.": {EFF: PRESENT},
        "A nodule that was not visible on prior radiographs.": {NOD: PRESENT},
        "New right lower lobe consolidation.": {CONS: PRESENT},
        "No change in the left pleural effusion.": {EFF: PRESENT},
        "No interval change in cardiomegaly.": {CMG: PRESENT},
        "No significant change in the small right pneumothorax.": {PTX: PRESENT},
        "Effusion is unchanged.": {EFF: PRESENT},
        "Improving edema.": {EDEMA: PRESENT},
        "Resolving pneumonia.": {PNA: PRESENT},
        "Partially resolved consolidation.": {CONS: PRESENT},
        "Effusion has decreased but not resolved.": {EFF: PRESENT},
        "The chest tube has been removed.": {DEV: ABSENT},
        "Interval removal of the endotracheal tube.": {DEV: ABSENT},
        "Interval placement of a chest tube.": {DEV: PRESENT},
        "Consolidation has cleared.": {CONS: ABSENT},
        "Left effusion, previously larger, persists.": {EFF: PRESENT},
    },
    "hedged": {
        "Pneumonia cannot be excluded.": {PNA: UNSURE},
        "Pneumonia is not excluded.": {PNA: UNSURE},
        "Pneumonia, possibly.": {PNA: UNSURE},
        "Pneumonia should be considered.": {PNA: UNSURE},
        "Pneumonia has not been ruled out.": {PNA: UNSURE},
        "A small effusion is not definitely excluded.": {EFF: UNSURE},
        "Early pneumonia is difficult to exclude.": {PNA: UNSURE},
        "Possible small left effusion.": {EFF: UNSURE},
        "Questionable nodule at the right apex.": {NOD: UNSURE},
        "Findings concerning for pneumonia.": {PNA: UNSURE},
        "Opacity may represent atelectasis.": {OPAC: PRESENT, ATEL: UNSURE},
        "Atelectasis versus pneumonia.": {ATEL: UNSURE, PNA: UNSURE},
        "Opacity, atelectasis or possibly pneumonia.": {
            OPAC: PRESENT, ATEL: PRESENT, PNA: UNSURE,
        },
        "Pneumonia is unlikely.": {PNA: UNSURE},
        "Likely atelectasis at the left base.": {ATEL: PRESENT},
        "Probably a small effusion.": {EFF: PRESENT},
        "Left base opacity, likely atelectasis.": {OPAC: PRESENT, ATEL: PRESENT},
        "Opacity most likely reflects atelectasis.": {OPAC: PRESENT, ATEL: PRESENT},
        "Pneumothorax is suspected.": {PTX: UNSURE},
        "Cannot rule out pneumonia.": {PNA: UNSURE},
        "Trace effusion might be present.": {EFF: UNSURE},
    },
    "abbreviated": {
        "No PTX.": {PTX: ABSENT},
        "Small left apical PTX.": {PTX: PRESENT},
        "CHF.": {EDEMA: PRESENT},
        "No CHF or PNA.": {EDEMA: ABSENT, PNA: ABSENT},
        "ETT in place.": {DEV: PRESENT},
        "ETT and NGT in standard position.": {DEV: PRESENT},
        "NGT tip below the diaphragm.": {DEV: PRESENT},
        "Right IJ line tip in the SVC.": {DEV: PRESENT},
        "Left IJ catheter, no PTX.": {DEV: PRESENT, PTX: ABSENT},
        "CABG clips.": {DEV: PRESENT},
        "R IJ CVL ends in the SVC.": {DEV: PRESENT},
        "No PTX or effusion s/p line placement.": {PTX: ABSENT, EFF: ABSENT},
    },
    "misspelled": {
        "Cardiomegally.": {CMG: PRESENT},
        "Mild cardiomegly.": {CMG: PRESENT},
        "No pneumothorx.": {PTX: ABSENT},
        "Small left pleural effussion.": {EFF: PRESENT},
        "Bibasilar atelectesis.": {ATEL: PRESENT},
        "No focal consoldation.": {CONS: ABSENT},
    },
    "asked": {
        "Pneumothorax? No.": {PTX: ABSENT},
        "Pneumothorax ? No": {PTX: ABSENT},
        "Pneumothorax? None seen. Effusion? Yes.": {PTX: ABSENT, EFF: PRESENT},
        "Is there pneumonia? No.": {PNA: ABSENT},
        "Pneumothorax? No. Effusion: small.": {PTX: ABSENT, EFF: PRESENT},
        "Effusion? Small, on the left.": {EFF: UNSURE},
        "Pneumonia?": {PNA: UNSURE},
        "?effusion": {EFF: UNSURE},
        "Right lung is clear. ? left effusion. Heart is enlarged.": {EFF: UNSURE, CMG: PRESENT},
        "Opacity at the base ?pneumonia.": {OPAC: PRESENT, PNA: UNSURE},
        "Edema ? pneumonia ?": {EDEMA: UNSURE, PNA: UNSURE},
        "No pneumothorax apart from the known effusion.": {PTX: ABSENT, EFF: PRESENT},
    },
    "a heading as scope": {
        "LUNGS: No consolidation.": {CONS: ABSENT},
        "HEART: Enlarged.": {CMG: PRESENT},
        "HEART: Normal.": {CMG: ABSENT},
        "Heart size: normal.": {CMG: ABSENT},
        "MEDIASTINUM: Widened.": {"Enlarged Cardiomediastinum": PRESENT},
        "PLEURA: No effusion or pneumothorax.": {EFF: ABSENT, PTX: ABSENT},
        "LINES AND TUBES: Endotracheal tube in place.": {DEV: PRESENT},
        "BONES: Rib fracture.": {"Fracture": PRESENT},
    },
}  # fmt: skip
# sentence -> {(concept, location)}
LOCATED = {
    "Left lower lobe opacity.": {(OPAC, "left lower lobe")},
    "There is an opacity in the right base.": {(OPAC, "right base")},
    "Bibasilar atelectasis.": {(ATEL, "bilateral bases")},
    "Atelectasis in the lung bases.": {(ATEL, "bilateral bases")},
    "Bilateral pleural effusions.": {(EFF, "bilateral")},
    "Effusions, right greater than left.": {(EFF, "bilateral")},
    "Nodule at the apex of the left lung.": {(NOD, "left apex")},
    "RUL pneumonia.": {(PNA, "right upper lobe")},
    "Right middle and lower lobe pneumonia.": {
        (PNA, "right lower lobe"),
        (PNA, "right middle lobe"),
    },
    "Opacities in the right upper lobe and the left base.": {
        (OPAC, "left base"),
        (OPAC, "right upper lobe"),
    },
    "In the lingula there is a nodule.": {(NOD, "lingula")},
    "Consolidation and atelectasis in the right base.": {
        (CONS, "right base"),
        (ATEL, "right base"),
    },
    "An opacity in the left base may represent pneumonia.": {
        (PNA, "left base"),
        (OPAC, "left base"),
    },
    "Opacity in the left base. This may be pneumonia.": {(PNA, "left base"), (OPAC, "left base")},
    "Left basilar opacity with effusion.": {(EFF, None), (OPAC, "left base")},
    "Healed fracture of the left 5th rib.": {("Fracture", "left rib")},
    "Opacity overlying the right 5th rib.": {(OPAC, "right")},
    "Pacemaker with leads in the right atrium.": {(DEV, None)},
    "Left lower lobe opacity and cardiomegaly.": {(CMG, None), (OPAC, "left lower lobe")},
    "Nodule in the lung.": {(NOD, None)},
    "Blunting of the left costophrenic angle by an effusion.": {(EFF, "left costophrenic angle")},
    "Small right, moderate left effusions.": {(EFF, "right"), (EFF, "left")},
    "Small right and moderate left pleural effusions.": {(EFF, "right"), (EFF, "left")},
    "R effusion.": {(EFF, "right")},
    "L basilar opacity.": {(OPAC, "left base")},
    "R lower lobe consolidation and L effusion.": {(CONS, "right lower lobe"), (EFF, "left")},
    "Stable right upper lobe nodule.": {(NOD, "right upper lobe")},
    "Small right effusion has nearly resolved.": {(EFF, "right")},
    "LEFT LUNG: Basilar atelectasis.": {(ATEL, "left base")},
    "Right lung: nodule in the upper lobe.": {(NOD, "right upper lobe")},
    "Bilat effusions.": {(EFF, "bilateral")},
    "R>L effusions.": {(EFF, "bilateral")},
    "LLL atx.": {(ATEL, "left lower lobe")},
    "LLL atelectasis.": {(ATEL, "left lower lobe")},
    "RUL nodule.": {(NOD, "right upper lobe")},
    "Fracture of L1.": {("Fracture", None)},
    "No PTX on the L.": {(PTX, "left")},
    "Opacity at the left base ?pneumonia.": {(OPAC, "left base"), (PNA, "left base")},
    "? left effusion.": {(EFF, "left")},
    "PLEURAL EFFUSION: Small, right.": {(EFF, "right")},
    "Pneumothorax: left apical, small.": {(PTX, "left apex")},
    "Small right effusion, none on the left.": {(EFF, "right")},
    "B/L pleural effusions.": {(EFF, "bilateral")},
    "Effusion (left).": {(EFF, "left")},
    "Moderate right pleural effusion, small on the left.": {(EFF, "right"), (EFF, "left")},
}
CASES = [(kind, text, wanted) for kind, each in ASSERTED.items() for text, wanted in each.items()]


# Each finding with its side and its own assertion.
SIDED = {
    "No right effusion, small left effusion.": {("right", ABSENT), ("left", PRESENT)},
    "Small left effusion, no right effusion.": {("right", ABSENT), ("left", PRESENT)},
    "No right effusion but moderate left effusion.": {("right", ABSENT), ("left", PRESENT)},
    "There is no right effusion and a small left effusion.": {
        ("right", ABSENT), ("left", PRESENT),
    },
    "LEFT: small effusion. RIGHT: no effusion.": {("right", ABSENT), ("left", PRESENT)},
    "Left effusion has resolved; the right effusion is unchanged.": {
        ("left", ABSENT), ("right", PRESENT),
    },
    "Right effusion has increased and left effusion has resolved.": {
        ("left", ABSENT), ("right", PRESENT),
    },
}  # fmt: skip


def said(text: str):
    return list(EXTRACTOR.extract([Report("s1", "p1", text, "", "train")]))


@pytest.mark.parametrize(("kind", "text", "wanted"), CASES)
def test_what_a_sentence_asserts(kind, text, wanted):
    found: dict[str, set[str]] = {}
    for triplet in said(text):
        found.setdefault(triplet.concept, set()).add(triplet.positive)
    assert found == {concept: {each} for concept, each in wanted.items()}, kind


@pytest.mark.parametrize(("text", "wanted"), LOCATED.items())
def test_where_a_sentence_places_it(text, wanted):
    assert {(triplet.concept, triplet.location) for triplet in said(text)} == wanted


@pytest.mark.parametrize(("text", "wanted"), SIDED.items())
def test_each_side_has_its_own_assertion(text, wanted):
    assert {(triplet.location, triplet.positive) for triplet in said(text)} == wanted
