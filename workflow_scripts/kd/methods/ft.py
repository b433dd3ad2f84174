"""Factor transfer: a translator on the student reproduces paraphrased teacher factors (Kim, Park and Kwak 2018)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd.data.needs import Needs
from kd.methods.contract import (
    EXTRA,
    STUDENT,
    Batch,
    Context,
    Frozen,
    Method,
    Outputs,
    Progress,
    Stage,
    Update,
    teacher,
)
from kd.methods.features import map_shapes, pool_match

PARAPHRASER = "paraphraser"
SLOPE = 0.1

PRETRAIN_RECIPE = {
    "optimizer": "sgd",
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 5e-4,
    "schedule": "constant",
    "milestones": [],
    "warmup_epochs": 0.0,
}
"""The pre-stage depends on the teacher alone, so its recipe is its own and not the student's."""


def factor(feature: Tensor, p1: int, form: str) -> Tensor:
    """Return factors (B,K,H,W) as unit vectors: ("code") their p1-th power's channel mean or ("paper") all of them."""
    vectors = feature.pow(p1).mean(dim=1) if form == "code" else feature
    return F.normalize(vectors.flatten(1), dim=1)


def ft_loss(student_factor: Tensor, teacher_factor: Tensor, p1: int = 2, p2: int = 1, form: str = "code") -> Tensor:
    """Return the mean of |q(student) - q(teacher)|^p2 for factors (B,K,H,W), the larger pooled to the smaller.

    form "paper" normalises the whole factor; form "code", which the weight 200 was published with, its channel mean.
    """
    s, t = pool_match(student_factor, teacher_factor.detach())
    return (factor(s, p1, form) - factor(t, p1, form)).abs().pow(p2).mean()


def encoder(inputs: int, outputs: int, batch_norm: bool) -> nn.Sequential:
    """Return three 3x3 convolutions from `inputs` to `outputs` channels, each with a leaky ReLU."""
    layers: list[nn.Module] = []
    for width_in, width_out in ((inputs, inputs), (inputs, outputs), (outputs, outputs)):
        layers.append(nn.Conv2d(width_in, width_out, 3, padding=1))
        layers.extend([nn.BatchNorm2d(width_out)] if batch_norm else [])
        layers.append(nn.LeakyReLU(SLOPE))
    return nn.Sequential(*layers)


def decoder(inputs: int, outputs: int) -> nn.Sequential:
    """Return the encoder's mirror of transposed convolutions, from factors back to maps."""
    layers: list[nn.Module] = []
    for width_in, width_out in ((inputs, inputs), (inputs, outputs), (outputs, outputs)):
        layers += [nn.ConvTranspose2d(width_in, width_out, 3, padding=1), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers)


class Paraphraser(nn.Module):
    """An autoencoder of the teacher's last map without BatchNorm; its code is the factor."""

    def __init__(self, channels: int, factors: int) -> None:
        super().__init__()
        self.encoder = encoder(channels, factors, batch_norm=False)
        self.decoder = decoder(factors, channels)

    def forward(self, feature: Tensor) -> Tensor:
        """Return the factors (B,K,H,W) of maps (B,C,H,W)."""
        return self.encoder(feature)

    def reconstruction_loss(self, feature: Tensor) -> Tensor:
        """Return the mean squared error of the maps decoded from their factors."""
        return F.mse_loss(self.decoder(self.encoder(feature)), feature)


class Trained(nn.Module):
    """Gives a module the parameter names that it has once it is Frozen."""

    def __init__(self, module: Paraphraser) -> None:
        super().__init__()
        self.module = module

    def forward(self, feature: Tensor) -> Tensor:
        """Return the reconstruction loss."""
        return self.module.reconstruction_loss(feature)


class FT(Method):
    """Cross-entropy and factor transfer, after a pre-stage that trains the paraphraser."""

    def needs(self) -> Needs:
        """Ask for the last maps."""
        return Needs(("last",), ("last",))

    def pretrain_plan(self) -> Stage:
        """Return the stage that trains the paraphraser on the teacher's maps."""
        recipe = {
            **PRETRAIN_RECIPE,
            "epochs": self.settings.paraphraser_epochs,
            "lr": self.settings.paraphraser_lr,
        }
        return Stage(PARAPHRASER, (Update(PARAPHRASER, (EXTRA,)),), recipe=recipe, selects=False)

    def build(self, context: Context) -> nn.ModuleDict:
        """Return the paraphraser to train, or, where there is a student, the frozen one and the translator."""
        channels = map_shapes("ft", context, teacher(0), self.teacher_taps)[0][0]
        factors = max(1, int(channels * self.settings.rate))
        paraphraser = Paraphraser(channels, factors)
        if STUDENT not in context.shapes:
            return nn.ModuleDict({PARAPHRASER: Trained(paraphraser)})
        inputs = map_shapes("ft", context, STUDENT, self.student_taps)[0][0]
        translator = encoder(inputs, factors, batch_norm=True)
        return nn.ModuleDict({PARAPHRASER: Frozen(paraphraser), "translator": translator})

    def loss(
        self, update: str, batch: Batch, outputs: Outputs, extra: nn.ModuleDict, progress: Progress
    ) -> dict[str, Tensor]:
        """Return the reconstruction loss of the pre-stage, or the classification and the factor loss."""
        teacher_map = outputs[teacher(0)].taps[self.teacher_taps[0]]
        if update == PARAPHRASER:
            return {"reconstruction": extra[PARAPHRASER](teacher_map)}
        with torch.no_grad():
            target = extra[PARAPHRASER](teacher_map)
        translated = extra["translator"](outputs[STUDENT].taps[self.student_taps[0]])
        settings = self.settings
        return {
            "ce": batch.cross_entropy(outputs[STUDENT].logits),
            "ft": ft_loss(translated, target, settings.p1, settings.p2, settings.form),
        }

    def weight(self, term: str, progress: Progress) -> float:
        """Return 1 for the reconstruction, which is alone in its stage, and the setting otherwise."""
        return 1.0 if term == "reconstruction" else super().weight(term, progress)
