"""Factor transfer: a translator on the student reproduces paraphrased teacher factors (Kim, Park and Kwak 2018)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd.methods._features import pool_match, require_maps
from kd.methods.contract import EXTRA, STUDENT, Context, Method, Progress, Stage, Step, Update, teacher

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


class Frozen(nn.Module):
    """A module that stays in eval mode and takes no gradient, whatever its parent does."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Frozen":
        """Stay in eval mode."""
        return super().train(False)

    def forward(self, *args: Tensor) -> Tensor:
        """Run the module."""
        return self.module(*args)


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

    def pretrain_plan(self) -> Stage:
        """Return the stage that trains the paraphraser on the teacher's maps."""
        recipe = {
            **PRETRAIN_RECIPE,
            "epochs": self.settings.paraphraser_epochs,
            "lr": self.settings.paraphraser_lr,
        }
        return Stage(PARAPHRASER, (Update(PARAPHRASER, (EXTRA,)),), recipe=recipe, selects=False)

    def taps(self, context: Context) -> dict[str, tuple[str, ...]]:
        """Return the last maps; in the pre-stage there is no student."""
        roles = (role for role in (STUDENT, teacher(0)) if role in context.taps)
        found = {role: context.resolve(role, ("last",)) for role in roles}
        require_maps(self.name, context, found)
        return found

    def build(self, context: Context) -> nn.ModuleDict:
        """Return the paraphraser to train, or, where there is a student, the frozen one and the translator."""
        channels = context.features(teacher(0))[0][0]
        factors = max(1, int(channels * self.settings.rate))
        paraphraser = Paraphraser(channels, factors)
        if STUDENT not in context.named:
            return nn.ModuleDict({PARAPHRASER: Trained(paraphraser)})
        translator = encoder(context.features(STUDENT)[0][0], factors, batch_norm=True)
        return nn.ModuleDict({PARAPHRASER: Frozen(paraphraser), "translator": translator})

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return the reconstruction loss of the pre-stage, or the classification and the factor loss."""
        (teacher_map,) = step.teacher.features
        if step.update == PARAPHRASER:
            return {"reconstruction": step.extra[PARAPHRASER](teacher_map)}
        with torch.no_grad():
            target = step.extra[PARAPHRASER](teacher_map)
        (student_map,) = step.student.features
        settings, translated = self.settings, step.extra["translator"](student_map)
        ft = ft_loss(translated, target, settings.p1, settings.p2, settings.form)
        return {"ce": step.cross_entropy(), "ft": ft}

    def weight(self, term: str, progress: Progress) -> float:
        """Return 1 for the reconstruction, which is alone in its stage, and the setting otherwise."""
        return 1.0 if term == "reconstruction" else super().weight(term, progress)
