"""The defaults of cards are the weights and constants that the methods were published with."""

import pytest

from kd.schema.cards import card

PUBLISHED = {
    # the CIFAR-100 comparisons of CRD's authors
    "kd": {"ce_weight": 0.1, "kd_weight": 0.9, "temperature": 4},
    "hint": {"hint_weight": 100, "student_taps": ["stage2"]},
    "at": {"at_weight": 1000, "p": 2, "student_taps": ["stages"]},
    "sp": {"sp_weight": 3000, "student_taps": ["last"]},
    "cc": {"cc_weight": 0.02, "embedding_size": 128},
    "vid": {"vid_weight": 1},
    "rkd": {"distance_weight": 25, "angle_weight": 50},
    "pkt": {"pkt_weight": 30000},
    "ab": {"ab_weight": 1, "kd_weight": 0, "init_epochs": 30, "margin": 1},
    "ft": {"ft_weight": 200, "paraphraser_epochs": 30, "rate": 0.5},
    "fsp": {"kd_weight": 0, "init_epochs": 30},
    "nst": {"nst_weight": 50},
    "crd": {"crd_weight": 0.8, "negatives": 16384, "temperature": 0.07, "momentum": 0.5, "embedding_size": 128},
    # their own releases
    "kdsvd": {"kdsvd_weight": 1, "k": 1},
    "ofd": {"ofd_weight": 0.001},
    "reviewkd": {"reviewkd_weight": 5, "warmup_epochs": 20},
    "dkd": {"ce_weight": 1, "alpha": 1, "beta": 8, "temperature": 4, "warmup_epochs": 20},
    "dist": {"ce_weight": 1, "dist_weight": 2, "inter_weight": 1, "intra_weight": 1, "temperature": 4},
    "dot": {"delta": 0.075},
    "simkd": {"ce_weight": 0, "simkd_weight": 1, "factor": 2},
    "srrl": {"ce_weight": 1, "kd_weight": 1},
    "mlkd": {"ce_weight": 0.1},
    "kd_logit_std": {"ce_weight": 0.1, "kd_weight": 9, "temperature": 2},
    "nkd": {"ce_weight": 1, "target_weight": 1, "nontarget_weight": 3.5, "temperature": 3},
    "normkd": {"ce_weight": 0.1, "kd_weight": 0.9, "temperature_norm": 2},
    "rld": {"ce_weight": 1, "scd_weight": 1, "mcd_weight": 8, "temperature": 4, "scd_temperature": 1},
    "abkd": {"ce_weight": 1, "abkd_weight": 32, "alpha": 0.8, "beta": 0.3, "temperature": 4, "form": "released"},
    "tekap": {"ce_weight": 0.1, "kd_weight": 0.9, "perturbations": 3, "noise_weight": 0.1, "augmented_weight": 0.8},
    "sdd": {"base": "kd", "scales": [1, 2, 4], "temperature": 4, "alpha": 1, "beta": 8, "warmup_epochs": 20},
    "wkd_l": {"ce_weight": 1, "target_weight": 1, "wkd_weight": 600, "temperature": 8, "sinkhorn_iterations": 10},
    "crld": {"ce_weight": 1, "within_view_weight": 2, "cross_view_weight": 0.5, "tau_weak": 0.9, "tau_strong": 0.2},
    "hard_kd": {"ce_weight": 0.5, "hard_weight": 0.5},
    "token_kd": {"ce_weight": 0.5, "token_weight": 0.5, "kind": "hard", "temperature": 1, "form": "deit"},
    "ca_mkd": {"ce_weight": 1, "kd_weight": 1, "feature_weight": 50},
    "ickd": {"ce_weight": 1, "ickd_weight": 2.5, "kd_weight": 1, "temperature": 4},
    "wkd_f": {"wkd_f_weight": 0.08, "mean_std_ratio": 4, "grid": 1, "decay_from": 150 / 240, "connector": "bottleneck"},
    "srd": {"ce_weight": 1, "srd_weight": 1, "kd_weight": 1, "exponent": 4, "bn_eps": 1e-4},
    "vkd": {"ce_weight": 1, "vkd_weight": 1, "kd_weight": 1, "temperature": 1},
    "mgd": {"ce_weight": 1, "mgd_weight": 0.0012, "mask_ratio": 0.15},
    "nd": {"ce_weight": 1, "nd_weight": 2, "dropout": 0.5, "augmented": True},
    "ofa": {"ce_weight": 1, "ofa_weight": 1, "kd_weight": 1, "eps": [1], "temperature": 1, "form": "released"},
    "semckd": {"ce_weight": 1, "semckd_weight": 400, "kd_weight": 1, "temperature": 4, "factor": 4},
    # the few-sample protocol of CKD
    "ckd": {"cls_weight": 1, "kd_weight": 0, "rel_weight": 1, "pos_and_neg": 3, "max_rel_samples": 100000},
    "ckd_inter": {"cls_weight": 1, "kd_weight": 0, "rel_weight": 1, "inner_scale": 1, "pos_and_neg": 3},
    "mixup": {"cls_weight": 1, "kd_weight": 0, "rel_weight": 1},
    "mixup3": {"cls_weight": 1, "kd_weight": 0, "rel_weight": 1},
    "cutmix": {"cls_weight": 1, "kd_weight": 0, "rel_weight": 1},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_defaults_are_the_published_ones(name):
    settings = card(name).settings
    assert {key: settings[key].default for key in PUBLISHED[name]} == PUBLISHED[name]
