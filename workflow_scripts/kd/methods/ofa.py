"""OFA-KD: stages of the student, read by heads of their own, learn the teacher's logits (Hao et al. 2023)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd.methods._connectors import connected
from kd.methods._features import EMBEDDING, require_maps
from kd.methods.contract import STUDENT, Context, Method, Step, teacher
from kd.models.base import pool
from kd.tools.errors import UserError

MOST_HEADS = 4
"""Of the stages of a network with more, such as a transformer's blocks, those that end each quarter have heads."""
GRID = 7
"""Tokens a side below which they are not merged."""
ATTENTION_HEADS = 4


def ofa_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    eps: float = 1.0,
    temperature: float = 1.0,
    form: str = "released",
) -> Tensor:
    """Return the batch mean of -sum_c a_c log q_c for logits (B,C) and labels (B,), q and p softmax at T.

    form "released": a = (p + 1[c = y])^eps - 1[c = y]; "described": eps is the label's alone, a_c = p_c for the others
    (the paper's form, whose 1 for the label is its cross-entropy). At eps 1 both are the cross-entropy of p and q. The
    logarithm is that of a softmax as a whole, so that it is finite at any margin.
    """
    own = F.log_softmax(student_logits / temperature, dim=1)
    known = F.softmax(teacher_logits.detach() / temperature, dim=1)
    label = torch.zeros_like(known).scatter_(1, labels[:, None], 1.0)  # one_hot asks the host whether labels are valid
    raised = (known + label).pow(eps) - label
    weights = raised if form == "released" else torch.lerp(known, raised, label)
    return -(weights * own).sum(dim=1).mean()


class Downsampling(nn.Sequential):
    """Two separable 3x3 convolutions with BatchNorm and ReLU, the first of stride 2."""

    def __init__(self, inputs: int, outputs: int) -> None:
        def separable(width: int, stride: int) -> list[nn.Module]:
            """Return a convolution of each channel by itself, then one across them to `width` channels."""
            return [
                nn.Conv2d(inputs, inputs, 3, stride, padding=1, groups=inputs, bias=False),
                nn.Conv2d(inputs, width, 1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]

        super().__init__(*separable(inputs, stride=2), *separable(outputs, stride=1))


class ConvolutionHead(nn.Module):
    """A head on maps: a downsampling for each stage that is still to come, then the average and a linear layer."""

    def __init__(self, inputs: int, width: int, num_classes: int, to_come: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [Downsampling(inputs * 2**k, inputs * 2 ** (k + 1)) for k in range(to_come - 1)]
        last = inputs * 2 ** max(0, to_come - 1)
        layers.append(Downsampling(last, width) if to_come else nn.Conv2d(inputs, width, 1))
        self.layers, self.fc = nn.Sequential(*layers), nn.Linear(width, num_classes)

    def forward(self, feature: Tensor) -> Tensor:
        """Return logits (B,classes) of maps (B,C,H,W)."""
        return self.fc(pool(self.layers(feature)))


class Merging(nn.Module):
    """Joins 2x2 neighbouring tokens into one: LayerNorm, a linear layer without bias and, where asked, GELU."""

    def __init__(self, inputs: int, outputs: int, activate: bool) -> None:
        super().__init__()
        layers = [nn.LayerNorm(4 * inputs), nn.Linear(4 * inputs, outputs, bias=False)]
        self.layers = nn.Sequential(*layers, nn.GELU()) if activate else nn.Sequential(*layers)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (B,H/2,W/2,outputs) of tokens (B,H,W,inputs)."""
        corners = [tokens[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.layers(torch.cat(corners, dim=3))


class AttentionHead(nn.Module):
    """A head on tokens: merged to about 7 a side, then blocks of attention, their average and a linear layer."""

    def __init__(self, shape: torch.Size, width: int, num_classes: int, to_come: int) -> None:
        super().__init__()
        inputs, *sides = shape
        merges = 0
        while all(side % 2 ** (merges + 1) == 0 and side >= GRID * 2 ** (merges + 1) for side in sides):
            merges += 1
        widths = [inputs, *[width] * merges]
        self.merge = nn.Sequential(
            *[Merging(widths[k], width, activate=k == 0 or k < merges - 1) for k in range(merges)]
        )
        self.project = nn.Linear(inputs, width) if merges == 0 and inputs != width else nn.Identity()
        self.blocks = nn.Sequential(*[_block(width) for _ in range(max(to_come, 1))])
        self.fc = nn.Linear(width, num_classes)

    def forward(self, feature: Tensor) -> Tensor:
        """Return logits (B,classes) of tokens as maps (B,C,H,W)."""
        tokens = self.merge(feature.permute(0, 2, 3, 1)).flatten(1, 2)
        return self.fc(self.blocks(self.project(tokens)).mean(dim=1))


def _block(width: int) -> nn.Module:
    """Return a transformer block as a ViT's: norms first, four times as wide within, no dropout."""
    return nn.TransformerEncoderLayer(
        width, math.gcd(width, ATTENTION_HEADS), 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
    )


def _initialise(head: nn.Module) -> None:
    """Set convolutions to Kaiming normal (fan out), linear weights to a narrow truncated normal, their biases to 0."""
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.MultiheadAttention):
            assert module.in_proj_weight is not None
            nn.init.trunc_normal_(module.in_proj_weight, std=0.02)


def are_tokens(context: Context) -> bool:
    """Whether the student's stages are tokens: several maps, all of one shape, as a plain transformer's blocks are."""
    shapes = [context.shapes[STUDENT][tap] for tap in context.stages[STUDENT]]
    return len(shapes) > 1 and len(set(shapes)) == 1


def quarters(stages: Sequence[str]) -> tuple[str, ...]:
    """Return at most four stages, those with which the quarters of the network end."""
    count = min(MOST_HEADS, len(stages))
    return tuple(stages[-(-(k + 1) * len(stages) // count) - 1] for k in range(count))


class OFA(Method):
    """Cross-entropy, and the teacher's logits with the label's share raised, for the student and its stages' heads."""

    def taps(self, context: Context) -> dict[str, tuple[str, ...]]:
        """Return the stages that have heads; of the teacher nothing but logits is read."""
        asked = self.settings.heads
        found = quarters(context.stages[STUDENT]) if asked == ["quarters"] else context.resolve(STUDENT, asked)
        if not found:
            raise UserError(
                f"method {self.name} puts heads on maps of the student, which has no stages: list some in heads"
            )
        named = {STUDENT: found}
        require_maps(self.name, context, named)
        if len(self.settings.eps) not in {1, len(found) + 1}:
            raise UserError(
                f"method ofa: eps must hold one value, or one for each of the {len(found)} heads and one for the "
                f"student's logits, found {len(self.settings.eps)}"
            )
        return named

    def build(self, context: Context) -> nn.ModuleDict:
        """Return one head a stage, for maps or for tokens."""
        head = self.settings.head
        if head == "auto":
            head = "attention" if are_tokens(context) else "convolution"
        heads = nn.ModuleList()
        own, other = (context.shapes[role][EMBEDDING].numel() for role in (STUDENT, teacher(0)))
        for tap, shape in zip(context.named[STUDENT], context.features(STUDENT), strict=True):
            to_come = stages_to_come(context.stages[STUDENT], tap)
            if head == "convolution":
                heads.append(ConvolutionHead(shape[0], max(own, other), context.num_classes, to_come))
            else:
                heads.append(AttentionHead(shape, own, context.num_classes, to_come))
            _initialise(heads[-1])
        return nn.ModuleDict({"heads": heads})

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return the losses of labels, of the stages' heads together and of the student's own logits."""
        *found, own = [self.compare(step, logits, eps) for logits, eps in self.read(step)]
        return {"ce": step.cross_entropy(), "ofa": torch.stack(found).sum(), "kd": own}

    def read(self, step: Step) -> list[tuple[Tensor, float]]:
        """Return the logits of each head with its eps, the student's own last."""
        logits = [*connected(step.extra["heads"], step.student.features), step.student.logits]
        eps = self.settings.eps
        return list(zip(logits, eps * len(logits) if len(eps) == 1 else eps, strict=True))

    def compare(self, step: Step, logits: Tensor, eps: float) -> Tensor:
        """Return the loss of some logits."""
        settings, labels = self.settings, step.batch.dominant_labels
        return ofa_loss(logits, step.teacher.logits, labels, eps, settings.temperature, settings.form)


def stages_to_come(stages: Sequence[str], tap: str) -> int:
    """Return how many stages, of a network with more than four how many quarters of it, come behind a tap."""
    count = min(MOST_HEADS, len(stages))
    if tap == "stem":
        return count
    return count - count * (stages.index(tap) + 1) // len(stages) if tap in stages else 0
