"""From recordings to a network's series: one rate, the time gap, windows. Stored with a run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rnnopt.config.data_config import DataConfig, Kind, hertz
from rnnopt.config.errors import UserError, without_dashes
from rnnopt.config.validation import Count, NotNegative, Positive
from rnnopt.tasks.user_data.feedback import with_past_outputs
from rnnopt.tasks.user_data.recordings import Recordings, without_channels
from rnnopt.tasks.user_data.resampling import resampled, told_of_rates, with_gaps
from rnnopt.tasks.user_data.series import cut_padding
from rnnopt.tasks.user_data.windows import Windows, cut


@dataclass(frozen=True)
class Sampling:
    """What is done to recordings, in this order.

    Args:
        drop: names or positions of the channels that are left out.
        resample: new rate in hertz; None means none.
        rate: rate of recordings without times, in hertz.
        time_gap: whether the seconds since the step before are another channel.
        window, stride, purge: as in `DataConfig`.
        each_step: whether windows keep the targets of their steps.
        feedback: past outputs that are further channels.
        trained_at: rate of the training recordings in hertz, where they keep their own.
    """

    drop: tuple[str, ...] = ()
    resample: Positive | None = None
    rate: Positive | None = None
    time_gap: bool = False
    window: Count | None = None
    stride: Count | None = None
    purge: bool = False
    each_step: bool = False
    feedback: NotNegative = 0
    trained_at: Positive | None = None

    @classmethod
    def of(cls, config: DataConfig) -> "Sampling":
        """That of a config, whose channels to leave out the readers know."""
        return cls(
            drop=config.drop,
            resample=None if config.resample is None else hertz(config.resample),
            rate=None if config.rate is None else hertz(config.rate),
            time_gap=config.time_gap,
            window=config.window,
            stride=config.stride,
            purge=config.purge,
            each_step=config.each_step,
            feedback=config.feedback,
        )

    @classmethod
    def checked(
        cls,
        window: int | None,
        stride: int | None,
        purge: bool,
        time_gap: bool,
        resample: str | None,
        rate: str | None,
        each_step: bool,
    ) -> "Sampling":
        """That of arguments of a Python function; ValueError for what `DataConfig` refuses."""
        options = dict(window=window, stride=stride, purge=purge, time_gap=time_gap)
        try:
            config = DataConfig(data="arrays", resample=resample, rate=rate, **options)  # type: ignore[arg-type]
        except UserError as error:
            raise ValueError(without_dashes(str(error))) from error
        return replace(cls.of(config), each_step=each_step)

    def shape(
        self,
        data: Recordings,
        kind: Kind | None = None,
        padded: bool = False,
        all_windows: bool = False,
        outputs: Sequence[str] = (),
    ) -> Recordings:
        """The series that a network gets, before `Preparation`; `shaped` is then true.

        Args:
            data: recordings as they were read.
            kind: kind of the targets.
            padded: whether missing values at the end are padding.
            all_windows: whether to keep windows without a label, and those that `purge` leaves out.
            outputs: names of a step's targets; () means those of `data`.

        Raises:
            ValueError: recordings that lack times, or are too short.
        """
        if data.shaped:
            return data
        data = replace(data, units=())  # not known of the channels that are made here
        if self.drop and not data.unused:
            data = without_channels(data, self.drop)
        if data.validation is not None:
            apart = self.shape(data.validation, kind, padded, all_windows, outputs)
            data = replace(data, validation=apart)
        if padded and (self.resample or self.window or self.feedback):
            data = without_padding(data)
        if self.resample is not None:
            data = resampled(data, self.resample, self.rate, kind)
        elif not self.time_gap:
            data = told_of_rates(data, self.trained_at)
        if self.time_gap:
            data = with_gaps(data)
        if self.feedback:
            names = outputs or (data.steps.names if data.steps is not None else ())
            data = with_past_outputs(data, self.feedback, names)
        if self.window is not None:
            stride = self.stride or self.window
            windows = Windows(self.window, stride, self.purge, self.each_step)
            data = cut(data, windows, kind, all_windows)
        return replace(data, shaped=True)


def without_padding(data: Recordings) -> Recordings:
    """The recordings, their times and targets without the steps of padding."""
    series = cut_padding(data.series)
    lengths = [len(one) for one in series]
    moments = data.moments
    if moments is not None:
        moments = tuple(one[:n] for one, n in zip(moments, lengths, strict=True))
    steps = None if data.steps is None else data.steps.cut(lengths)
    return replace(data, series=series, moments=moments, steps=steps)
