/** Short facts in a line. */
export function Dots({ of: facts, class: name = "" }: { of: (string | undefined | false | null)[]; class?: string }) {
  return (
    <span class={`dots ${name}`}>
      {facts
        .filter((fact) => fact)
        .map((fact, index) => (
          <>
            {index > 0 && " · "}
            <span>{fact}</span>
          </>
        ))}
    </span>
  )
}
