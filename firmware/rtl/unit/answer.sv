// The answer to a token, word by word, as fast as it is taken:
//
//   header    bits 6:0 stand-ins, 14:8 missing experts, 31:16 the layer
//   k words   bits 15:0 the expert that runs, 16 whether it stands in, 17 whether it must be loaded, 31:18 the wanted
//             expert in whose place it runs
//   victims   if asked for, for each missing expert in order: who makes room for it, or 0xffff for nobody
//   k words   mixing weights, U1F31
//
// The victims leave the resident set and the missing experts enter it as their words are made.
module unit_answer #(
  parameter int unsigned E = 256,
  parameter int unsigned K = 8,
  parameter int unsigned ID = $clog2(E),
  parameter int unsigned RANK = (K > 1) ? $clog2(K) : 1
) (
  input  logic            clk,
  input  logic            rst_n,
  input  logic            start,
  input  logic            apply,
  input  logic [15:0]     layer,
  input  logic [RANK:0]   k,
  input  logic [ID:0]     capacity,
  input  logic [ID:0]     residents,
  input  logic [RANK:0]   stand_ins,
  input  logic [K*ID-1:0] chosen_ids,
  input  logic [K*ID-1:0] wanted_ids,
  input  logic [K-1:0]    replaced,
  input  logic [K-1:0]    missing,
  input  logic            weighed,
  input  logic [K*32-1:0] weights,
  input  logic [K-1:0]    victim_full,
  input  logic [K*ID-1:0] victim_ids,
  output logic            done,
  // Words of the resident set.
  output logic            set_read,
  output logic            set_write,
  output logic [ID-1:0]   set_expert,
  output logic [31:0]     set_bits,
  input  logic [31:0]     set_word,
  // The answer.
  output logic            out_valid,
  input  logic            out_ready,
  output logic [31:0]     out_data,
  output logic            out_last
);
  typedef enum logic [3:0] {
    IDLE, HEADER, CHOICES, NEXT, INSERT, INSERTED, FIND, REMOVE, REMOVED, VICTIM, WEIGHTS, LAST
  } state_t;
  state_t state;
  logic [RANK:0] index, victim;
  logic [ID:0] count;
  logic [ID-1:0] given_up;
  logic nobody;
  wire free = ~out_valid | out_ready;
  wire last_rank = index + 1'b1 == k;

  // What belongs to the rank.
  logic [K*(2*ID+2)-1:0] choices;
  logic [K*(ID+1)-1:0] candidates;
  logic [ID-1:0] id, wanted, candidate;
  logic stands_in, is_missing, candidate_there;
  logic [31:0] weight;
  logic [K-1:0] keeps;
  logic [7:0] counted, missing_count;
  for (genvar i = 0; i < K; i++) begin : ranks
    assign choices[i*(2*ID+2)+:2*ID+2] = {wanted_ids[i*ID+:ID], missing[i], replaced[i], chosen_ids[i*ID+:ID]};
    assign candidates[i*(ID+1)+:ID+1] = {victim_full[i], victim_ids[i*ID+:ID]};
    assign keeps[i] = (RANK + 1)'(i) < k & chosen_ids[i*ID+:ID] == candidate;
  end
  unit_pick #(.N(K), .WIDTH(2 * ID + 2)) pick_choice (
    .entries(choices), .index(index[RANK-1:0]), .entry({wanted, is_missing, stands_in, id})
  );
  unit_pick #(.N(K), .WIDTH(ID + 1)) pick_candidate (
    .entries(candidates), .index(victim[RANK-1:0]), .entry({candidate_there, candidate})
  );
  unit_pick #(.N(K), .WIDTH(32)) pick_weight (.entries(weights), .index(index[RANK-1:0]), .entry(weight));
  always_comb begin
    counted = '0;
    for (int i = 0; i < K; i++) counted = counted + 8'(missing[i]);
  end

  assign set_expert = state == REMOVE || state == REMOVED ? given_up : id;
  assign set_read = state == INSERT || state == REMOVE;
  assign set_write = state == INSERTED || state == REMOVED;
  wire [31:0] bit_of_expert = 32'd1 << set_expert[4:0];
  assign set_bits = state == REMOVED ? set_word & ~bit_of_expert : set_word | bit_of_expert;

  always_ff @(posedge clk) begin
    missing_count <= counted;
    if (state == FIND) given_up <= candidate;
    if (free) begin
      case (state)
        HEADER: out_data <= {layer, missing_count, 8'(stand_ins)};
        CHOICES: out_data <= {14'(wanted), is_missing, stands_in, 16'(id)};
        VICTIM: out_data <= nobody ? 32'h0000_ffff : 32'(given_up);
        default: out_data <= weight;
      endcase
    end
  end
  always_ff @(posedge clk or negedge rst_n) begin
    if (!rst_n) begin
      state <= IDLE;
      {index, victim, count, nobody} <= '0;
      {out_valid, out_last, done} <= '0;
    end else begin
      done <= 1'b0;
      if (out_ready) out_valid <= 1'b0;
      case (state)
        IDLE: if (start) begin
          state <= HEADER;
          index <= '0;
          victim <= '0;
          count <= residents;
          out_last <= 1'b0;
        end
        HEADER: if (free) begin
          out_valid <= 1'b1;
          state <= CHOICES;
        end
        CHOICES: if (free) begin
          out_valid <= 1'b1;
          index <= last_rank ? '0 : index + 1'b1;
          if (last_rank) state <= apply ? NEXT : WEIGHTS;
        end
        // The next missing expert.
        NEXT: begin
          nobody <= 1'b1;
          if (is_missing) begin
            state <= INSERT;
          end else begin
            index <= last_rank ? '0 : index + 1'b1;
            if (last_rank) state <= WEIGHTS;
          end
        end
        INSERT: state <= INSERTED;
        INSERTED: if (count < capacity) begin
          count <= count + 1'b1;
          state <= VICTIM;
        end else begin
          state <= FIND;
        end
        FIND: if (victim == (RANK + 1)'(K) || !candidate_there) begin
          count <= count + 1'b1;
          state <= VICTIM;
        end else begin
          victim <= victim + 1'b1;
          if (keeps == '0) state <= REMOVE;
        end
        REMOVE: begin
          nobody <= 1'b0;
          state <= REMOVED;
        end
        REMOVED: state <= VICTIM;
        VICTIM: if (free) begin
          out_valid <= 1'b1;
          index <= last_rank ? '0 : index + 1'b1;
          state <= last_rank ? WEIGHTS : NEXT;
        end
        WEIGHTS: if (free && weighed) begin
          out_valid <= 1'b1;
          out_last <= last_rank;
          index <= index + 1'b1;
          if (last_rank) state <= LAST;
        end
        default: if (out_ready) begin
          out_last <= 1'b0;
          done <= 1'b1;
          state <= IDLE;
        end
      endcase
    end
  end
`ifdef FORMAL
  // A word waits until it is taken, unchanged.
  logic waits = 1'b0, last_before;
  logic [31:0] data_before;
  always_ff @(posedge clk) begin
    waits <= rst_n & out_valid & ~out_ready;
    {last_before, data_before} <= {out_last, out_data};
    if (waits && rst_n) assert (out_valid && out_data == data_before && out_last == last_before);
    assume (k >= 1 && k <= (RANK + 1)'(K));
    if (rst_n && state == IDLE) assert (!out_valid);
    if (rst_n && out_last) assert (state == LAST);
    if (rst_n) assert (victim <= (RANK + 1)'(K));
  end
`endif
endmodule
