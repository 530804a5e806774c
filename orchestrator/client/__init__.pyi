"""What programs talk to a server with; loaded when first used."""

from .asynchronous import AsyncClient as AsyncClient
from .client import Client as Client
from .endpoint import Endpoint as Endpoint
from .endpoint import find_endpoint as find_endpoint
from .forms import Ended as Ended
from .forms import Event as Event
from .forms import JobFields as JobFields
from .forms import JobStatus as JobStatus
from .forms import JobSummary as JobSummary
from .forms import NodeStatus as NodeStatus
from .forms import QueueItem as QueueItem
from .forms import Submitted as Submitted
from .problems import AuthError as AuthError
from .problems import RequestFailedError as RequestFailedError
from .problems import ServerUnreachableError as ServerUnreachableError
from .retry import Retry as Retry
