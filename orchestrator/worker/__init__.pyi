"""What scripts that run as jobs are written with; loaded when first used."""

from .checkpoints import Checkpoints as Checkpoints
from .checkpoints import Restored as Restored
from .checkpoints import Save as Save
from .control import Control as Control
from .control import World as World
from .controller import LocalController as LocalController
from .elastic import Elastic as Elastic
from .elastic import Share as Share
from .inference.batches import BatchCheck as BatchCheck
from .inference.batches import BatchInference as BatchInference
from .inference.batches import check_output as check_output
from .inference.server import InferenceServer as InferenceServer
from .manifests import Found as Found
from .manifests import Manifest as Manifest
from .order import DataOrder as DataOrder
from .torchft import TorchFTElastic as TorchFTElastic
