"""Robot datasets in the LeRobot formats, read and written with numpy, pyarrow and PyAV alone (no torch, no lerobot)."""

from sana_wm.data.errors import DatasetError
from sana_wm.data.lerobot_dataset import LeRobotDataset
from sana_wm.data.lerobot_writer import LeRobotWriter
from sana_wm.data.video import VideoEncoding

__all__ = ["DatasetError", "LeRobotDataset", "LeRobotWriter", "VideoEncoding"]
