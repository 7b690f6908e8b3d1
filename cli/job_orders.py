"""What the service's long jobs do: orders are checked and planned here, and carried out.

Wires `serving.operations`, which knows what is ordered, to `workers.ingest` and `workers.relocalize`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import shapely

from cli.fleet_localizer import FleetLocalizer
from cli.fleet_summary import summarize
from serving.errors import InvalidRequest
from serving.operations import FleetOrder, IngestOrder, Order
from spatial_index.bulk import BulkSearch, StoreSearch, open_bulk_search
from spatial_index.files import read_json, write_json
from spatial_index.store import Store
from tiling.errors import BadArea, BadGrid, SheetError, TilingError
from tiling.grid import GridSpec
from tiling.ortho import OnError, open_ortho
from workers.errors import BadJob, BadManifest, NothingToIngest
from workers.fleet_pipeline import answer_fleet_on_ray, embed_fleet_on_ray
from workers.ingest import build
from workers.ingest_plan import KIND as INGEST
from workers.ingest_plan import IngestPlan, plan_ingest
from workers.jobs import JobRecord, Jobs, JobState
from workers.manifest import Manifest, read_manifest, sampled
from workers.pipeline import embed_on_ray
from workers.relocalize import FleetReport, job_id_of, record_job, relocalize
from workers.runs import standing_run

if TYPE_CHECKING:
    from clnet_model.encoder import Encoder

RESULTS = "results.parquet"
SUMMARY = "summary.json"
"""Files of a fleet's job, in its folder."""
REMEDY = "order it again with rerun"
"""For results that are not there."""

Check = Callable[[], None]
"""Called between two pieces of work; raises JobCancelled."""


class Work(Protocol):
    """An order that can be carried out."""

    @property
    def job_id(self) -> str:
        """The same work has the same id."""

    def record(self) -> JobRecord:
        """The job's record, made with the first call."""

    def is_done(self, record: JobRecord) -> bool:
        """Whether its result is there and stands."""

    def carry_out(self, check: Check) -> None:
        """Do it; what it raises is in the record too."""


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """What jobs work with. Orders may name files in the folder `inputs` alone."""

    inputs: Path
    jobs: Jobs
    store: Store
    checkpoint: Path | None = None

    @cached_property
    def encoder(self) -> Encoder:
        """The model that plans are made for; loaded with the first order and kept.

        Workers load the checkpoint anew, and refuse another model than the plan's.
        """
        from clnet_model.encoder import load_encoder  # torch, 2 s: only when it is needed

        return load_encoder(self.checkpoint)

    def planned(self, order: Order) -> Work:
        """Check an order against what is there.

        Raises:
            InvalidRequest: it cannot be carried out; the field that says why.
        """
        match order:
            case IngestOrder():
                return self._planned_ingest(order)
            case FleetOrder():
                return self._planned_fleet(order)

    def _planned_ingest(self, order: IngestOrder) -> IngestWork:
        sheets = [self._sheet(path, f"sheets[{row}]") for row, path in enumerate(order.sheets)]
        on_error: OnError = "skip" if order.skip_bad_sheets else "fail"
        with _refused(covering="sheets" if order.area is None else "area"):
            grid = GridSpec(
                zoom=self.encoder.zoom if order.zoom is None else order.zoom,
                side_m=self.encoder.side_m if order.side_m is None else order.side_m,
            )
            plan = plan_ingest(
                order.region,
                open_ortho(sheets, on_error=on_error),
                self.encoder,
                grid=grid,
                area=order.area,
                storage=order.storage,
            )
        return IngestWork(shop=self, plan=plan, on_error=on_error)

    def _planned_fleet(self, order: FleetOrder) -> FleetWork:
        with _refused():
            manifest = read_manifest(self._inside(order.manifest, "manifest"))
        if order.max_images is not None:
            manifest = sampled(manifest, order.max_images)
        return FleetWork(shop=self, manifest=manifest, rerun=order.rerun)

    def localizer(self, search: BulkSearch | StoreSearch) -> FleetLocalizer:
        """How fleets are localized here."""
        return FleetLocalizer(self.encoder, search, checkpoint=self.checkpoint)

    def _sheet(self, path: str, field: str) -> str:
        if "://" not in path:
            return str(self._inside(path, field))
        if path.startswith(("https://", "s3://")):
            return path
        raise InvalidRequest(field, "has another scheme than https:// and s3://", "give one of these")

    def _inside(self, path: str, field: str) -> Path:
        """A path as it is on the disk; links lead nowhere else.

        Raises:
            InvalidRequest: it is outside the folder of inputs, or is not there.
        """
        root = self.inputs.resolve()
        try:
            found = (root / path).resolve()
            there = found.is_relative_to(root) and found.exists()
        except (OSError, RuntimeError, ValueError):  # too long, or links in a circle
            there = False
        if not there:
            remedy = "give a path relative to the folder that the service was started with, --inputs"
            raise InvalidRequest(field, "is not in the folder of inputs", remedy)
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestWork:
    """A region to build."""

    shop: Workshop
    plan: IngestPlan
    on_error: OnError

    @property
    def job_id(self) -> str:
        """See `Work.job_id`."""
        return self.plan.job_id

    def record(self) -> JobRecord:
        """See `Work.record`."""
        return self.shop.jobs.create(self.plan.job_id, INGEST, self.plan.to_json())

    def is_done(self, record: JobRecord) -> bool:
        """What was built may lack sheets, or have been rolled back or dropped since."""
        standing = standing_run(self.shop.store, self.shop.jobs, self.plan)
        return record.state is JobState.SUCCEEDED and standing is not None and standing.live

    def carry_out(self, check: Check) -> None:
        """See `Work.carry_out`."""
        build(
            self.plan,
            store=self.shop.store,
            jobs=self.shop.jobs,
            checkpoint=self.shop.checkpoint,
            on_error=self.on_error,
            embed=embed_on_ray,
            progress=lambda _: check(),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetWork:
    """Images to localize."""

    shop: Workshop
    manifest: Manifest
    rerun: bool

    @property
    def job_id(self) -> str:
        """See `Work.job_id`."""
        return job_id_of(self.manifest, self._asking())

    def record(self) -> JobRecord:
        """See `Work.record`."""
        return record_job(self.manifest, self._asking(), self.shop.jobs)

    def is_done(self, record: JobRecord) -> bool:
        """A new run is against what is live now, and only when it is asked for."""
        there = (self.shop.jobs.folder(record.id) / RESULTS).is_file()
        return record.state is JobState.SUCCEEDED and there and not self.rerun

    def carry_out(self, check: Check) -> None:
        """See `Work.carry_out`."""
        relocalize(
            self.manifest,
            self.shop.jobs.folder(self.job_id) / RESULTS,
            localizer=self.shop.localizer(open_bulk_search(self.shop.store)),
            jobs=self.shop.jobs,
            embed=embed_fleet_on_ray,
            answer=answer_fleet_on_ray,
            progress=lambda _: check(),
        )

    def _asking(self) -> FleetLocalizer:
        """One that has read nothing yet, which is enough to tell one job from another."""
        return self.shop.localizer(StoreSearch(self.shop.store))


def fleet_result(folder: Path, record: JobRecord) -> Mapping[str, Any]:
    """The summary of a fleet's job that has succeeded; made with the first call after each run.

    Raises:
        BadJob: the results are not in the job's folder, where `clnet relocalize` need not write them, or
            cannot be read.
    """
    with suppress(OSError, ValueError):  # not there, or damaged
        kept = read_json(folder / SUMMARY)
        if kept.get("report") == record.result:
            return kept
    try:
        summary = summarize(folder / RESULTS, FleetReport(**(record.result or {})))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadJob(record.id, "has no readable results in its folder", REMEDY) from error
    made = {**asdict(summary), "report": record.result}
    with suppress(OSError):  # a full disk; it is made again with the next call
        write_json(folder / SUMMARY, made)
    return made


def order_to_json(order: Order) -> dict[str, Any]:
    """An order as JSON values."""
    match order:
        case IngestOrder():
            area = None if order.area is None else shapely.to_wkt(order.area, rounding_precision=-1)
            return {"kind": "ingest", **asdict(order), "area": area}
        case FleetOrder():
            return {"kind": "relocalize", **asdict(order)}


def order_from_json(values: Mapping[str, Any]) -> Order:
    """The order that `order_to_json` wrote."""
    fields = {name: value for name, value in values.items() if name != "kind"}
    if values["kind"] == "relocalize":
        return FleetOrder(**fields)
    area = None if fields["area"] is None else shapely.from_wkt(fields["area"])
    return IngestOrder(**{**fields, "sheets": tuple(fields["sheets"]), "area": area})


@contextmanager
def _refused(covering: str = "area") -> Iterator[None]:
    """What is wrong with inputs, as what is wrong with the request's field that named them."""
    try:
        yield
    except BadGrid as error:
        raise InvalidRequest("zoom", "or side_m is outside the grid's range", str(error)) from error
    except (BadArea, NothingToIngest) as error:
        raise InvalidRequest(covering, "cannot be covered", str(error)) from error
    except SheetError as error:
        problem = f"cannot be used: {Path(error.path).name}: {error.problem}"
        raise InvalidRequest("sheets", problem, error.remedy) from error
    except TilingError as error:
        raise InvalidRequest("sheets", "cannot be used", str(error)) from error
    except BadManifest as error:
        raise InvalidRequest("manifest", error.reason, error.remedy) from error
