"""Validates SBOMs and provenance with the libraries of other projects. Prints a line for each document.

  supply_chain.py FILE...    the name of each file ends in .cdx.json, .spdx.json or .provenance.json
"""

import json
import sys


def cyclonedx(path):
    from cyclonedx.model.bom import Bom
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = open(path, encoding="utf-8").read()
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if error is not None:
        sys.exit(f"{path}: {error}")
    bom = Bom.from_json(json.loads(text))
    # Every reference must lead to a component.
    bom.validate()
    main = bom.metadata.component
    return f"cyclonedx {main.name} {main.version}: {len(bom.components)} components"


def spdx(path):
    from spdx_tools.spdx.parser.parse_anything import parse_file
    from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

    document = parse_file(path)
    messages = validate_full_spdx_document(document)
    if messages:
        sys.exit("\n".join(f"{path}: {it.validation_message}" for it in messages))
    return f"spdx {document.creation_info.name}: {len(document.packages)} packages"


def in_toto(path):
    import in_toto_attestation.predicates.provenance.v1.provenance_pb2 as provenance_pb2
    import in_toto_attestation.v1.statement_pb2 as statement_pb2
    from google.protobuf import json_format
    from in_toto_attestation.v1.statement import Statement

    statement = json_format.Parse(open(path, encoding="utf-8").read(), statement_pb2.Statement())
    Statement.copy_from_pb(statement).validate()
    if statement.predicate_type != "https://slsa.dev/provenance/v1":
        sys.exit(f"{path}: unexpected predicate type {statement.predicate_type}")
    # Unknown fields are errors.
    fields = json_format.MessageToDict(statement.predicate)
    predicate = json_format.ParseDict(fields, provenance_pb2.Provenance())
    definition, builder = predicate.build_definition, predicate.run_details.builder
    if not (definition.build_type and definition.external_parameters and builder.id):
        sys.exit(f"{path}: a required field of the predicate is missing")
    (subject,) = statement.subject
    return f"in-toto {subject.name} sha256:{subject.digest['sha256']}"


def main():
    kinds = {".cdx.json": cyclonedx, ".spdx.json": spdx, ".provenance.json": in_toto}
    for path in sys.argv[1:]:
        (validate,) = [check for end, check in kinds.items() if path.endswith(end)]
        print(validate(path))


main()
